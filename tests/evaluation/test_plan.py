"""Videos of an evaluation; none of them may have trained the checkpoint under any list."""

import csv
import shutil

import pytest

from evclip_ray.artifacts import ArtifactError, read_json, write_json
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.evaluation.calibrate import plan_calibration
from evclip_ray.evaluation.plan import plan_evaluation
from evclip_ray.training.checkpoint import ADAPTER, CONFIG, ROWS
from evclip_ray.training.video_plan import plan_videos, record_rows


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
    with pytest.raises(ManifestError, match=r"2 of the 8 videos to score were used .*\(2 trained it\)"):
        read(checkpoint, manifest, tmp_path, protocol)
    plan = read(checkpoint, manifest, tmp_path, protocol, {"data.allow_leaks": True})
    assert plan.leaking_rows == 2


def test_closed_set_of_another_list_is_checked(checkpoint, other, tmp_path):
    manifest = other(copies=1)
    text = manifest.read_text().splitlines()
    marked = [f"{text[0]},split", *(f"{line},test" for line in text[1:])]
    manifest.write_text("\n".join(marked) + "\n")
    with pytest.raises(ManifestError, match="1 of the 7 videos to score"):
        read(checkpoint, manifest, tmp_path, "closed_set")
    plan = read(checkpoint, manifest, tmp_path, "closed_set", {"data.allow_leaks": True})
    assert plan.leaking_rows == 1


def test_zero_shot_has_no_training_videos(checkpoint, other, tmp_path):
    assert read(checkpoint, other(copies=1), tmp_path, "zero_shot").leaking_rows == 0


@pytest.mark.parametrize("protocol", ["cross_dataset", "zero_shot"])
def test_time_limit_of_a_video_is_passed_on(checkpoint, other, tmp_path, protocol):
    plan = read(checkpoint, other(copies=0), tmp_path, protocol, {"data.seconds_per_video": 30})
    assert plan.seconds_per_video == 30


@pytest.fixture
def folder_of_clips(tmp_path):
    """Return a function that fills a folder without splits, 8 files of each of two classes, and then more."""
    root = tmp_path / "clips"

    def fill(numbers):
        for label in ("run", "walk"):
            (root / label).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                (root / label / f"{number}.mp4").write_bytes(f"{label} {number}".encode())
        return root

    return fill


@pytest.fixture
def trained_on_clips(make_experiment, folder_of_clips, tmp_path):
    """Return a checkpoint, without tensors, that has the record of its rows, and the plan of its videos."""
    return _checkpoint(make_experiment, folder_of_clips(range(8)), tmp_path)


def _checkpoint(make_experiment, root, tmp_path, **data):
    experiment = make_experiment(**{"data.manifest": str(root), "data.synthetic": None, **data})
    plan = plan_videos(experiment, cache=tmp_path / "cache")
    folder = tmp_path / "clips-best"
    folder.mkdir()
    (folder / ADAPTER).touch()
    record_rows(plan).write(folder / ROWS)
    write_json(
        folder / CONFIG,
        {"experiment": experiment.model_dump(mode="json"), "classes": list(plan.classes)},
    )
    return folder, plan


def paths(plan, split):
    return {plan.manifest.column("path")[row] for row in plan.rows[split].tolist()}


def test_test_split_of_a_grown_folder_has_no_used_video(trained_on_clips, folder_of_clips, tmp_path):
    checkpoint, trained = trained_on_clips
    before = paths(plan_evaluation(checkpoint, {}, split="test", cache=tmp_path).plans["test"], "test")
    folder_of_clips(range(8, 14))
    after = paths(plan_evaluation(checkpoint, {}, split="test", cache=tmp_path).plans["test"], "test")
    assert before < after
    assert not after & (paths(trained, "train") | paths(trained, "val"))


@pytest.mark.parametrize("settings", [{"data.split_seed": 1}, {"data.test_fraction": 0.5}])
def test_other_draw_of_the_splits_is_refused_with_the_count(trained_on_clips, tmp_path, settings):
    checkpoint, _ = trained_on_clips
    with pytest.raises(ManifestError, match=r"\d+ of the \d+ videos to score were used for this checkpoint"):
        plan_evaluation(checkpoint, settings, split="test", cache=tmp_path)


def test_copied_training_video_in_the_test_split_is_refused(trained_on_clips, folder_of_clips, tmp_path):
    checkpoint, trained = trained_on_clips
    tested = paths(plan_evaluation(checkpoint, {}, split="test", cache=tmp_path).plans["test"], "test")
    root = folder_of_clips(range(8))
    shutil.copy(root / min(paths(trained, "val")), root / min(tested))
    with pytest.raises(ManifestError, match=r"\(1 selected it\)"):
        plan_evaluation(checkpoint, {}, split="test", cache=tmp_path)


def test_validation_split_is_scored_with_a_warning(trained_on_clips, tmp_path, caplog):
    checkpoint, trained = trained_on_clips
    plan = plan_evaluation(checkpoint, {}, split="val", cache=tmp_path).plans["val"]
    assert paths(plan, "val") == paths(trained, "val")
    assert "'val' split selected this checkpoint" in caplog.text


@pytest.mark.parametrize("protocol", ["closed_set", "cross_domain"])
def test_validation_of_a_run_on_all_videos_is_refused(make_experiment, folder_of_clips, tmp_path, protocol):
    root = folder_of_clips(range(8))
    checkpoint, _ = _checkpoint(make_experiment, root, tmp_path, **{"data.selection": "last_epoch"})
    with pytest.raises(ArtifactError, match=r"has no validation videos.* cross-validation.* --split test"):
        plan_evaluation(checkpoint, {}, split="val", cache=tmp_path, protocol=protocol)
    assert plan_evaluation(checkpoint, {}, split="test", cache=tmp_path, protocol=protocol)


def test_later_validation_videos_of_a_full_run_are_scored(make_experiment, tmp_path, caplog):
    lines = ["path,label,split"]
    for label in ("run", "walk"):
        for number, split in enumerate(("train", "train", "test")):
            (tmp_path / f"{label}{number}.mp4").write_bytes(f"{label} {number}".encode())
            lines.append(f"{label}{number}.mp4,{label},{split}")
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(lines))
    checkpoint, _ = _checkpoint(make_experiment, listed, tmp_path)
    for label in ("run", "walk"):
        (tmp_path / f"{label}9.mp4").write_bytes(f"{label} 9".encode())
        lines.append(f"{label}9.mp4,{label},val")
    listed.write_text("\n".join(lines))
    plan = plan_evaluation(checkpoint, {}, split="val", cache=tmp_path).plans["val"]
    assert paths(plan, "val") == {"run9.mp4", "walk9.mp4"}
    assert "too good" not in caplog.text


def test_unknown_split_names_the_nearest(trained_on_clips, tmp_path):
    with pytest.raises(ConfigError, match="split 'tests' is unknown; did you mean 'test'"):
        plan_evaluation(trained_on_clips[0], {}, split="tests", cache=tmp_path)


def test_checkpoint_without_record_is_checked_by_its_list(checkpoint, tmp_path, caplog):
    plan = plan_evaluation(checkpoint, {}, split="test", cache=tmp_path / "cache").plans["test"]
    assert len(plan.rows["test"]) > 0
    assert "no record of its videos" in caplog.text


def test_list_of_other_videos_without_splits_is_read_whole(checkpoint, other, tmp_path):
    overrides = {"data.manifest": str(other(copies=0)), "data.synthetic": None}
    plan = plan_evaluation(checkpoint, overrides, split="test", cache=tmp_path / "cache")
    assert len(plan.plans["test"].rows["test"]) == 6
    assert plan.extent("test").startswith("6 of 6 videos of ")
    assert plan.extent("test").endswith("(the list has no splits)")


def test_moved_folder_keeps_the_splits_of_the_training(trained_on_clips, folder_of_clips, tmp_path):
    checkpoint, _ = trained_on_clips
    before = plan_evaluation(checkpoint, {}, split="test", cache=tmp_path)
    folder_of_clips([]).rename(tmp_path / "moved")
    overrides = {"data.manifest": str(tmp_path / "moved")}
    after = plan_evaluation(checkpoint, overrides, split="test", cache=tmp_path)
    assert paths(after.plans["test"], "test") == paths(before.plans["test"], "test")
    assert after.extent("test").endswith("(the 'test' split)")


def test_moved_list_with_splits_is_that_of_the_training(make_experiment, tmp_path, caplog):
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    lines = ["path,label,split"]
    (tmp_path / "a").mkdir()
    for label in ("run", "walk"):
        for number, split in enumerate(splits):
            (tmp_path / "a" / f"{label}{number}.mp4").write_bytes(f"{label} {number}".encode())
            lines.append(f"{label}{number}.mp4,{label},{split}")
    (tmp_path / "a" / "list.csv").write_text("\n".join(lines) + "\n")
    checkpoint, _ = _checkpoint(make_experiment, tmp_path / "a" / "list.csv", tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = {"data.manifest": str(tmp_path / "b" / "list.csv")}
    assert (
        len(plan_evaluation(checkpoint, moved, split="test", cache=tmp_path).plans["test"].rows["test"]) == 4
    )
    plan_evaluation(checkpoint, moved, split="val", cache=tmp_path)
    assert "the 'val' split selected this checkpoint" in caplog.text
    # The study that the checkpoint belongs to has taken over the new location.
    study = tmp_path / "study"
    (study / "trials").mkdir(parents=True)
    checkpoint = checkpoint.rename(study / "best")
    write_json(study / "fixed.json", {"data": {"manifest": moved["data.manifest"]}})
    plan = plan_evaluation(checkpoint, {}, split="test", cache=tmp_path)
    assert plan.experiment.data.manifest == moved["data.manifest"]


def test_study_that_moved_to_other_paths_keeps_its_splits(trained_on_clips, folder_of_clips, tmp_path):
    checkpoint, trained = trained_on_clips
    before = plan_evaluation(checkpoint, {}, split="test", cache=tmp_path).plans["test"]
    moved = folder_of_clips([]).rename(tmp_path / "elsewhere")
    listed = tmp_path / "list.csv"
    lines = [f"{moved.name}/{path},{path.split('/')[0]}" for path in before.manifest.column("path")]
    listed.write_text("\n".join(["path,label", *lines, ""]))
    study = tmp_path / "study"
    (study / "trials").mkdir(parents=True)
    write_json(study / "fixed.json", {"data": {"manifest": str(listed)}})
    checkpoint = checkpoint.rename(study / "best")
    after = plan_evaluation(checkpoint, {}, split="test", cache=tmp_path).plans["test"]
    assert paths(after, "test") == {f"{moved.name}/{path}" for path in paths(before, "test")}
    after = plan_calibration(checkpoint, {}, cache=tmp_path).plans["val"]
    assert paths(after, "val") == {f"{moved.name}/{path}" for path in paths(trained, "val")}


def test_other_folder_with_the_same_names_is_read_whole(trained_on_clips, folder_of_clips, tmp_path):
    checkpoint, _ = trained_on_clips
    shutil.copytree(folder_of_clips([]), tmp_path / "night")
    for video in (tmp_path / "night").rglob("*.mp4"):
        video.write_bytes(video.read_bytes() + b" at night")
    plan = plan_evaluation(
        checkpoint, {"data.manifest": str(tmp_path / "night")}, split="test", cache=tmp_path
    )
    assert len(plan.plans["test"].rows["test"]) == 16


def test_missing_videos_are_refused_before_decoding(checkpoint, tmp_path):
    (tmp_path / "new.csv").write_text("path,label\na.mp4,growing\nb.mp4,moving\n")
    overrides = {"data.manifest": str(tmp_path / "new.csv"), "data.synthetic": None}
    for protocol in ("closed_set", "cross_dataset"):
        with pytest.raises(ManifestError, match="2 of 2 videos are missing"):
            plan_evaluation(checkpoint, overrides, split="test", cache=tmp_path, protocol=protocol)


def test_decomposed_classes_of_an_old_checkpoint_are_known(checkpoint, tmp_path):
    record = read_json(checkpoint / CONFIG)
    write_json(checkpoint / CONFIG, record | {"classes": ["cafe\u0301", "hug"]})
    lines = [f"{label}{k}.mp4,{label}" for label in ("caf\u00e9", "hug") for k in range(2)]
    for line in lines:
        (tmp_path / line.partition(",")[0]).touch()
    (tmp_path / "new.csv").write_text("\n".join(["path,label", *lines, ""]))
    overrides = {"data.manifest": str(tmp_path / "new.csv"), "data.synthetic": None}
    plan = plan_evaluation(checkpoint, overrides, split="test", cache=tmp_path)
    assert plan.trained == ("caf\u00e9", "hug")
