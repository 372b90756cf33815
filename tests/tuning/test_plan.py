import types

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.training.resources import GIB, GpuMemory
from evclip_ray.tuning import tuner
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.tuner import StudyRun

MACHINES = [{"CPU": 4.0, "memory": 8e9}]
LONG = "very " * 80 + "long"


@pytest.fixture
def plan(tmp_path):
    """Return a function that plans a study on files that are no videos: nothing is decoded."""

    def make(labels=("walk", "wave"), *, same=False, machines=MACHINES, study=None, **search):
        rows = ["path,label,split"]
        for split in ("train", "val", "test"):
            for label in labels:
                name = f"{split}-{len(rows)}.mp4"
                (tmp_path / name).write_bytes(b"same" if same else name.encode() * len(rows))
                rows.append(f"{name},{label},{split}")
        (tmp_path / "videos.csv").write_text("\n".join(rows) + "\n")
        fixed = {
            "data.manifest": str(tmp_path / "videos.csv"),
            "backbone.name": "debug",
            "backbone.pretrained": "random",
        }
        if "method.name" not in search:
            fixed["method.video_encoder.name"] = "swin3d_debug"
        settings = {"trials": 2, **(study or {})}
        space = SearchSpace.load("mine", {"fixed": fixed, "search": search, "study": settings})
        run = StudyRun(space, tmp_path / "study", cache=tmp_path / "cache")
        planned = run.plan(machines)
        if planned.share is not None:
            run.claim()
        return planned

    return make


def test_class_text_beyond_the_context_is_found_in_the_plan(plan):
    with pytest.raises(
        ConfigError, match=r"method ev_clip on backbone debug: .* 77 tokens of debug, the first"
    ):
        plan(("walk", LONG), **{"optim.lr": {"uniform": [0.1, 1.0]}})


def test_largest_number_of_vectors_decides_in_the_plan(plan):
    search = {"method.name": {"choice": ["coop"]}, "method.num_vectors": {"int": [4, 16]}}
    assert plan(("walk", "far " * 50 + "away"), **search).trials == 2
    search["method.num_vectors"] = {"int": [4, 32]}
    with pytest.raises(ConfigError, match="32 learned vectors must fit"):
        plan(("walk", "far " * 50 + "away"), **search)


def test_equal_bytes_in_two_splits_are_found_by_the_plan(plan):
    planned = plan(same=True, **{"optim.lr": {"uniform": [0.1, 1.0]}})
    with pytest.raises(
        ManifestError, match=r"equal content of 'train-1.mp4' \(train\) and 'val-3.mp4' \(val\)"
    ):
        planned.check_leaks()


def test_different_videos_have_no_leaks(plan):
    plan(**{"optim.lr": {"uniform": [0.1, 1.0]}}).check_leaks()


WITH_GPU = [{"CPU": 8.0, "GPU": 1.0, "memory": 64.0 * GIB, "accelerator_type:H100": 1.0}]
RATES = {"optim.lr": {"uniform": [0.1, 1.0]}}


@pytest.fixture
def measured(monkeypatch):
    """Return the CPUs of each measurement. A trial needs 20 of 80 GiB of GPU memory."""
    cpus = []

    def measure(experiment, classes, cpus_of_trial, cache):
        cpus.append(cpus_of_trial)
        return types.SimpleNamespace(memory=GpuMemory(20 * GIB, 80 * GIB))

    monkeypatch.setattr(tuner, "measure_on_gpu", measure)
    return cpus


def test_trials_share_a_gpu_and_a_later_call_does_not_measure(plan, measured):
    for _ in range(2):
        planned = plan(machines=WITH_GPU, **RATES)
        assert (planned.request.gpus, planned.concurrent) == (0.3333, 3)
        text = dict(planned.lines())["resources"]
        assert "3 at once; 3 trials share a GPU (a trial needs 20.6 of 80 GiB of GPU memory)" in text
    assert measured == [1]
    other = [{**WITH_GPU[0], "accelerator_type:A10": 1.0}]
    assert plan(machines=other, **RATES).concurrent == 3
    assert measured == [1, 1], "another kind of GPU has other memory"


@pytest.mark.parametrize(
    ("study", "gpus"), [({"gpus": 0.5}, 0.5), ({"trials_per_gpu": 1}, 1.0), ({"trials_per_gpu": 2}, 0.5)]
)
def test_set_share_of_a_gpu_is_used(plan, measured, study, gpus):
    assert plan(machines=WITH_GPU, study=study, **RATES).request.gpus == gpus


def test_more_trials_than_fit_on_a_gpu_are_refused(plan, measured):
    with pytest.raises(ValueError, match=r"4 trials do not fit\. Set study.trials_per_gpu to at most 3"):
        plan(machines=WITH_GPU, study={"trials_per_gpu": 4}, **RATES)


def test_plan_without_a_gpu_measures_nothing(plan, measured):
    assert plan(**RATES).request.gpus == 0
    assert measured == []
