"""A run of an earlier version goes on with the earlier default size of its frames."""

import logging

import pytest

from evclip_ray.training import train
from evclip_ray.training.experiment import ExperimentConfig

DATA = {"data": {"manifest": "videos.csv"}}


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Return a function that resumes a run with one experiment in the folder of another."""

    def resume(recorded, experiment):
        monkeypatch.setattr(train, "latest_readable", lambda folder: folder)
        monkeypatch.setattr(
            train, "read_record", lambda folder: {"experiment": recorded.model_dump(mode="json")}
        )
        return train._with_begun_view(experiment, [tmp_path])

    return resume


def test_earlier_default_size_is_kept_and_reported(begun, caplog):
    earlier = ExperimentConfig.load(DATA, {"view.fit": "crop", "view.num_frames": 4})
    with caplog.at_level(logging.WARNING):
        assert begun(earlier, ExperimentConfig.load(DATA, {"view.num_frames": 4})) == earlier
    assert "began with view.fit=crop" in caplog.text


def test_run_that_differs_otherwise_is_not_adopted(begun):
    earlier = ExperimentConfig.load(DATA, {"view.fit": "crop"})
    other = ExperimentConfig.load(DATA, {"optim.lr": 1e-2})
    assert begun(earlier, other) == other


def test_folder_without_a_run_keeps_the_experiment(tmp_path):
    experiment = ExperimentConfig.load(DATA)
    assert train._with_begun_view(experiment, [tmp_path]) is experiment
