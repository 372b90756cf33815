"""Folders of tables: scores on one list never replace those on another."""

from types import SimpleNamespace

import pytest

from evclip_ray.artifacts import write_ledger
from evclip_ray.evaluation.tables_folder import tables_folder


@pytest.fixture
def plan(make_experiment):
    """Return a function that plans the evaluation of a list; only what the folder depends on is planned."""

    def make(source, *, training=False, protocol="closed_set"):
        listed = SimpleNamespace(manifest=SimpleNamespace(source=str(source)))
        experiment = make_experiment()
        data = experiment.data.model_copy(update={"manifest": str(source), "synthetic": None})
        return SimpleNamespace(
            split="test",
            protocol=protocol,
            plans={"test": listed},
            is_training_list=training,
            experiment=experiment.model_copy(update={"data": data}),
        )

    return make


def write(folder, plan):
    folder.mkdir(parents=True)
    write_ledger(folder, "evaluation", inputs={"experiment": plan.experiment.model_dump(mode="json")})


@pytest.mark.parametrize(
    ("source", "options", "name"),
    [
        ("night/manifest.csv", {"training": True}, "best-test"),
        ("night/manifest.csv", {"training": True, "protocol": "base_to_novel"}, "best-test-base_to_novel"),
        ("night/manifest.csv", {}, "best-test-night"),
        ("night.csv", {"protocol": "cross_dataset"}, "best-test-cross_dataset-night"),
    ],
)
def test_folder_is_named_after_split_protocol_and_list(plan, tmp_path, source, options, name):
    assert tables_folder(tmp_path / "best", plan(tmp_path / source, **options)) == tmp_path / name


def test_second_list_of_the_same_name_gets_its_own_folder(plan, tmp_path):
    first, second = (plan(tmp_path / folder / "night.csv") for folder in "ab")
    folder = tables_folder(tmp_path / "best", first)
    write(folder, first)
    assert tables_folder(tmp_path / "best", first) == folder
    other = tables_folder(tmp_path / "best", second)
    assert other.name.startswith("best-test-night-")
    write(other, second)
    assert tables_folder(tmp_path / "best", second) == other
