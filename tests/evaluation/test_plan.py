"""Videos of an evaluation; none of them may have trained the checkpoint under any list."""

import csv
import shutil

import pytest

from evclip_ray.artifacts import write_json
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.evaluation.plan import plan_evaluation
from evclip_ray.training.checkpoint import ADAPTER, CONFIG


@pytest.fixture
def checkpoint(make_experiment, tiny_manifest, tmp_path):
    """Write the record of a checkpoint without its tensors."""
    with tiny_manifest.open() as stream:
        classes = sorted({row["label"] for row in csv.DictReader(stream)})
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / ADAPTER).touch()
    record = {"experiment": make_experiment().model_dump(mode="json"), "classes": classes}
    write_json(folder / CONFIG, record)
    return folder


@pytest.fixture
def other(tiny_manifest, tmp_path):
    """Write another set: the test videos under other names, and a copy of a training video."""

    def make(*, copies):
        with tiny_manifest.open() as stream:
            rows = list(csv.DictReader(stream))
        tested = [row for row in rows if row["split"] == "test"]
        trained = [row for row in rows if row["split"] == "train"][:copies]
        folder = tmp_path / "other"
        folder.mkdir()
        with (folder / "m.csv").open("w") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label"])
            for number, row in enumerate([*tested, *trained]):
                shutil.copy(tiny_manifest.parent / row["path"], folder / f"{number}.mp4")
                writer.writerow([f"{number}.mp4", row["label"]])
        return folder / "m.csv"

    return make


def read(checkpoint, manifest, tmp_path, protocol, settings=None):
    overrides = {"data.manifest": str(manifest), "data.synthetic": None, **(settings or {})}
    return plan_evaluation(
        checkpoint, overrides, split="test", cache=tmp_path / "cache", protocol=protocol
    ).plans["test"]


@pytest.mark.parametrize("protocol", ["cross_dataset", "cross_domain"])
def test_set_without_training_videos_is_evaluated_whole(checkpoint, other, tmp_path, protocol):
    plan = read(checkpoint, other(copies=0), tmp_path, protocol)
    assert len(plan.rows["test"]) == 6
    assert plan.leaking_rows == 0


@pytest.mark.parametrize("protocol", ["cross_dataset", "cross_domain"])
def test_renamed_training_videos_are_refused_with_the_count(checkpoint, other, tmp_path, protocol):
    manifest = other(copies=2)
    with pytest.raises(
        ManifestError, match=r"2 leaks between the training and the evaluation videos \(2 by con"
    ):
        read(checkpoint, manifest, tmp_path, protocol)
    plan = read(checkpoint, manifest, tmp_path, protocol, {"data.allow_leaks": True})
    assert plan.leaking_rows == 2


def test_closed_set_of_another_list_is_checked(checkpoint, other, tmp_path):
    manifest = other(copies=1)
    text = manifest.read_text().splitlines()
    marked = [f"{text[0]},split", *(f"{line},test" for line in text[1:])]
    manifest.write_text("\n".join(marked) + "\n")
    with pytest.raises(ManifestError, match="1 leaks between the training and the evaluation videos"):
        read(checkpoint, manifest, tmp_path, "closed_set")
    plan = read(checkpoint, manifest, tmp_path, "closed_set", {"data.allow_leaks": True})
    assert plan.leaking_rows == 1


def test_zero_shot_has_no_training_videos(checkpoint, other, tmp_path):
    assert read(checkpoint, other(copies=1), tmp_path, "zero_shot").leaking_rows == 0


@pytest.mark.parametrize("protocol", ["cross_dataset", "zero_shot"])
def test_time_limit_of_a_video_is_passed_on(checkpoint, other, tmp_path, protocol):
    plan = read(checkpoint, other(copies=0), tmp_path, protocol, {"data.seconds_per_video": 30})
    assert plan.seconds_per_video == 30
