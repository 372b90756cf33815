"""Stored masks and predictions of the best trial of a study with one trained tiny run."""

import csv
import json
import shutil

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError, read_json, read_ledger, write_json, write_ledger
from evclip_ray.data.masks import write_masks
from evclip_ray.evaluation.mask_views import add_masks, save_best_masks
from evclip_ray.training.datamodule import prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import plan_videos
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.study_folder import StudyFolder


@pytest.fixture(scope="module")
def make_study(debug_settings, tiny_manifest, tiny_cache, tmp_path_factory, local_ray):
    """Return a function that makes a study's folder with one trained trial."""

    def make(overrides):
        experiment = ExperimentConfig.load(
            {"data": {"manifest": str(tiny_manifest)}}, {**debug_settings, "optim.epochs": 1, **overrides}
        )
        videos = prepare(plan_videos(experiment, cache=tiny_cache), cache=tiny_cache)
        root = tmp_path_factory.mktemp("study")
        write_ledger(root, "study", inputs={})
        folder = StudyFolder(root)
        videos.save(folder.videos(videos_key(experiment)))
        Run.start(experiment, videos, folder=folder.trial("trial-0000")).fit(lambda metrics: None)
        shutil.copytree(folder.trial("trial-0000") / "best", root / "best")
        return root

    return make


@pytest.fixture(scope="module")
def study(make_study):
    return make_study({})


def test_training_videos_of_a_fold_scored_study_are_not_shown(make_study, tmp_path):
    study = make_study({})
    (saved,) = (study / "videos").glob("*.json")
    write_json(saved, read_json(saved) | {"folds": 2})
    with pytest.raises(ArtifactError, match="trained on all videos that scored it"):
        save_best_masks(study, tmp_path / "best-val", max_videos=4, seed=0)


def test_masks_are_saved_with_both_predictions(study, tmp_path):
    out = save_best_masks(study, tmp_path / "best-val", max_videos=4, seed=0)
    record = read_json(out / "masks" / "masks.json")
    with np.load(out / "masks" / "masks.npz") as saved:
        frames, masks = saved["frames"], saved["masks"]
    assert frames.shape[:2] == (4, 4)
    assert frames.dtype == np.uint8
    assert masks.shape == frames.shape[:1] + frames.shape[2:4]
    assert masks.min() >= 0
    assert masks.max() <= 1
    with (out / "predictions.csv").open() as stream:
        predictions = {row["path"]: row for row in csv.DictReader(stream)}
    for video in record["videos"]:
        predicted = predictions[video["path"]]
        assert (video["label"], video["zero_shot"]["label"]) == (predicted["label"], predicted["zero_shot"])
        assert video["adapted"]["label"] == predicted["adapted"]
        assert 0 <= video["adapted"]["p_true"] <= video["adapted"]["p"] <= 1
    changes = [abs(v["adapted"]["p_true"] - v["zero_shot"]["p_true"]) for v in record["videos"][:2]]
    assert changes == sorted(changes, reverse=True)
    assert {video["why"].partition(" (")[0] for video in record["videos"]} == {
        "among the most changed",
        "random",
    }


def test_only_validation_videos_are_opened(study, tmp_path, tiny_manifest):
    out = save_best_masks(study, tmp_path / "best-val", max_videos=6, seed=0)
    with tiny_manifest.open() as stream:
        splits = {row["path"]: row["split"] for row in csv.DictReader(stream)}
    shown = {video["path"] for video in read_json(out / "masks" / "masks.json")["videos"]}
    assert {splits[path] for path in shown} == {"val"}
    assert read_ledger(out, "evaluation")["inputs"]["split"] == "val"


def test_existing_masks_are_kept_unless_the_seed_changes(study, tmp_path):
    out = save_best_masks(study, tmp_path / "best-val", max_videos=2, seed=0)
    first = (out / "masks" / "masks.npz").stat().st_mtime_ns
    save_best_masks(study, out, max_videos=2, seed=0)
    assert (out / "masks" / "masks.npz").stat().st_mtime_ns == first
    save_best_masks(study, out, max_videos=3, seed=1)
    assert read_json(out / "masks" / "masks.json")["seed"] == 1


def test_method_without_a_mask_records_the_reason(make_study, tmp_path):
    study = make_study({"method.prompts": "context"})
    out = save_best_masks(study, tmp_path / "best-val", max_videos=4, seed=0)
    assert (
        read_json(out / "masks" / "masks.json")["reason"] == "ev_clip, as the best trial has it, has no mask"
    )
    assert (out / "per_class.csv").is_file()


def test_missing_videos_are_named(study, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(study, moved)
    for path in (moved / "videos").glob("*.json"):
        write_json(path, json.loads(path.read_text().replace("shards", "gone")))
    with pytest.raises(ArtifactError, match="gone"):
        save_best_masks(moved, tmp_path / "best-val", max_videos=4, seed=0)


def test_add_masks_uses_the_split_of_the_evaluation(study, tmp_path, tiny_cache):
    from click.testing import CliRunner

    from evclip_ray.cli import main

    out = tmp_path / "best-test"
    command = ["evaluate", str(study / "best"), "--out", str(out), "--cache", str(tiny_cache)]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    add_masks(out, cache=tiny_cache, max_videos=3, seed=0)
    record = read_json(out / "masks" / "masks.json")
    assert record["split"] == "test"
    assert len(record["videos"]) == 3
    assert read_ledger(out, "evaluation")["openings"] == 1
    # Both were moved together, so the checkpoint is next to the evaluation again.
    theirs = tmp_path / "theirs"
    shutil.copytree(study / "best", theirs / "best")
    shutil.move(out, theirs / "best-test")
    ledger = theirs / "best-test" / "ledger.json"
    ledger.write_text(ledger.read_text().replace(str(study), "/nowhere"))
    add_masks(theirs / "best-test", cache=tiny_cache, max_videos=2, seed=0)
    assert len(read_json(theirs / "best-test" / "masks" / "masks.json")["videos"]) == 2


@pytest.fixture(scope="module")
def masked_manifest(tiny_manifest, tmp_path_factory):
    """Write the list of the same videos with masks of their left half. One is missing, one does not fit."""
    folder = tmp_path_factory.mktemp("masked")
    half = np.zeros((12, 64, 64), bool)
    half[:, :, :32] = True
    write_masks(folder / "half.npz", half)
    write_masks(folder / "short.npz", half[:5])
    with tiny_manifest.open() as stream:
        rows = list(csv.DictReader(stream))
    for split in ("val", "test"):
        of_split = [row for row in rows if row["split"] == split]
        names = ["absent.npz", "short.npz", None, *["half.npz"] * (len(of_split) - 3)]
        for row, name in zip(of_split, names, strict=True):
            row["mask"] = name and f"file://{folder}/{name}"
    with (folder / "manifest.csv").open("w") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "mask"] if "mask" not in rows[0] else rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def masked_study(make_study, masked_manifest, tiny_manifest):
    settings = {"data.manifest": str(masked_manifest), "data.root": str(tiny_manifest.parent)}
    return make_study(settings)


def test_true_masks_are_saved_and_scored_beside_the_masks(masked_study, tmp_path):
    out = save_best_masks(masked_study, tmp_path / "best-val", max_videos=6, seed=0)
    quality = read_ledger(out, "evaluation")["mask_quality"]
    assert (quality["videos"], quality["named"], quality["scored"]) == (6, 5, 3)
    assert quality["base_share"] == pytest.approx(0.5, abs=0.02)
    low, high = quality["average_precision_interval"]
    assert low <= quality["average_precision"] <= high
    assert sorted(video["reason"].split(": ")[-1][:14] for video in quality["skipped"]) == [
        "holds the mask",
        "is not there; ",
    ]
    record = read_json(out / "masks" / "masks.json")
    with np.load(out / "masks" / "masks.npz") as saved:
        frames, true = saved["frames"], saved["true_masks"]
    assert true.shape == frames.shape[:4]
    for video, mask in zip(record["videos"], true, strict=True):
        known = isinstance(video.get("mask_quality"), dict)
        assert mask.mean() == pytest.approx(127.5 if known else 0, abs=5)
    assert sum("mask_quality" in video for video in record["videos"]) == 5
    with (out / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    precisions = [float(row["mask_average_precision"]) for row in rows if row["mask_average_precision"]]
    assert np.mean(precisions) == pytest.approx(quality["average_precision"], abs=1e-5)
    assert len(precisions) == 3


def test_masks_that_are_named_later_are_added(study, masked_study, masked_manifest, tmp_path, tiny_manifest):
    listed = tmp_path / "manifest.csv"
    shutil.copy(tiny_manifest, listed)
    moved = tmp_path / "study"
    shutil.copytree(masked_study, moved)
    config = moved / "best" / "config.json"
    config.write_text(config.read_text().replace(str(masked_manifest), str(listed)))
    out = save_best_masks(moved, tmp_path / "best-val", max_videos=2, seed=0)
    assert "mask_quality" not in read_ledger(out, "evaluation")
    shutil.copy(masked_manifest, listed)
    save_best_masks(moved, out, max_videos=2, seed=0)
    assert read_ledger(out, "evaluation")["mask_quality"]["scored"] == 3
    # Without the list, what was saved is kept.
    listed.unlink()
    before = (out / "masks" / "masks.npz").stat().st_mtime_ns
    save_best_masks(moved, out, max_videos=2, seed=0)
    assert (out / "masks" / "masks.npz").stat().st_mtime_ns == before


def test_evaluate_prints_and_records_the_mask_quality(masked_study, tmp_path, tiny_cache):
    from click.testing import CliRunner

    from evclip_ray.cli import main

    out = tmp_path / "best-test"
    command = ["evaluate", str(masked_study / "best"), "--out", str(out), "--cache", str(tiny_cache)]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    assert "mask            average precision 0." in shown.output
    assert "over 3 videos in 1 group; the figure covers 0.5" in shown.output
    assert "true masks for 5 of 6 videos" in shown.output
    assert "2 of them could not be compared with their mask" in shown.output
    add_masks(out, cache=tiny_cache, max_videos=3, seed=0)
    assert any("mask_quality" in video for video in read_json(out / "masks" / "masks.json")["videos"])
