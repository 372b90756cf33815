"""Calibration on the recorded validation videos of a checkpoint."""

import csv
import json
import os
import shutil

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError, write_json
from evclip_ray.config import ConfigError
from evclip_ray.evaluation.calibrate import CalibrationSettings, fit_calibration, plan_calibration
from evclip_ray.metrics.calibration import FILE, Calibration
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.metrics.scoring import Scores
from evclip_ray.training.checkpoint import ADAPTER, CONFIG, ROWS, copy_checkpoint
from evclip_ray.training.checksums import check_checkpoint, write_checksums
from evclip_ray.training.video_plan import plan_videos, record_rows


def table(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def validation_paths(manifest):
    return [row["path"] for row in table(manifest) if row["split"] == "val"]


def chosen_paths(plan):
    chosen = plan.plans["val"]
    return [chosen.manifest.column("path")[row] for row in chosen.rows["val"]]


@pytest.fixture
def checkpoint(make_experiment, tiny_manifest, tmp_path):
    """Write the records of a checkpoint with a stand-in for its tensors."""
    experiment, folder = make_experiment(), tmp_path / "best"
    folder.mkdir()
    (folder / ADAPTER).write_bytes(b"tensors")
    classes = sorted({row["label"] for row in table(tiny_manifest)})
    write_json(folder / CONFIG, {"experiment": experiment.model_dump(mode="json"), "classes": classes})
    record_rows(plan_videos(experiment, cache=tmp_path)).write(folder / ROWS)
    write_checksums(folder, left_out=[ROWS])
    return folder


def test_own_validation_videos_are_chosen(checkpoint, tiny_manifest, tmp_path):
    plan = plan_calibration(checkpoint, {}, cache=tmp_path)
    assert chosen_paths(plan) == validation_paths(tiny_manifest)
    assert not any(path.name.startswith(".") for path in checkpoint.iterdir())


def test_another_evaluated_list_does_not_change_them(checkpoint, tiny_manifest, tmp_path):
    other = tmp_path / "other.csv"
    row = next(row for row in table(tiny_manifest) if row["split"] == "test")
    other.write_text(f"path,label\n{row['path']},{row['label']}\n")
    settings = {"data.manifest": str(other), "data.root": str(tiny_manifest.parent)}
    plan = plan_calibration(checkpoint, settings, cache=tmp_path)
    assert chosen_paths(plan) == validation_paths(tiny_manifest)


def test_videos_marked_as_validation_later_are_left_out(checkpoint, tiny_manifest, tmp_path, caplog):
    """A test video that somebody marked as validation, and one video that is gone."""
    rows = [row | {"group": ""} for row in table(tiny_manifest)]
    next(row for row in rows if row["split"] == "test")["split"] = "val"
    lost = validation_paths(tiny_manifest)[0]
    changed = tmp_path / "changed.csv"
    with changed.open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row for row in rows if row["path"] != lost)
    record = json.loads((checkpoint / CONFIG).read_text())
    record["experiment"]["data"] |= {"manifest": str(changed), "root": str(tiny_manifest.parent)}
    write_json(checkpoint / CONFIG, record)
    plan = plan_calibration(checkpoint, {}, cache=tmp_path)
    assert chosen_paths(plan) == validation_paths(tiny_manifest)[1:]
    assert "was validated on 6 videos, and 5 of" in caplog.text


def test_moved_videos_are_found_by_content(checkpoint, tiny_manifest, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    rows = table(tiny_manifest)
    for number, row in enumerate(rows):
        shutil.copy(tiny_manifest.parent / row["path"], moved / f"{number}.mp4")
    text = [f"{number}.mp4,{row['label']},{row['split']}" for number, row in enumerate(rows)]
    (moved / "m.csv").write_text("\n".join(["path,label,split", *text]))
    record = json.loads((checkpoint / CONFIG).read_text())
    record["experiment"]["data"] |= {"manifest": str(moved / "m.csv")}
    write_json(checkpoint / CONFIG, record)
    plan = plan_calibration(checkpoint, {}, cache=tmp_path)
    assert len(chosen_paths(plan)) == 6


def test_checkpoint_without_validation_names_the_fix(checkpoint, make_experiment, tmp_path):
    experiment = make_experiment(data__selection="last_epoch")
    plan = plan_videos(experiment, cache=tmp_path, splits=("train",))
    record_rows(plan).write(checkpoint / ROWS)
    with pytest.raises(ArtifactError, match=r"no validation videos.*data\.selection=kshot_validation"):
        plan_calibration(checkpoint, {}, cache=tmp_path)


def test_read_only_checkpoint_names_the_fix(checkpoint, tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", os.fspath(folder))

    monkeypatch.setattr("evclip_ray.artifacts.probe_writable", refuse)
    with pytest.raises(ArtifactError, match=r"cannot be written to.*copy it to a folder of yours"):
        plan_calibration(checkpoint, {}, cache=tmp_path)


def parse(is_requested=True, protocol="closed_set", views="1x1", **options):
    return CalibrationSettings.parse(
        is_requested, options, protocol=protocol, views=EvaluationViews.parse(views)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conformal": 1.0}, "conformal.*less than 1"),
        ({"conformal": 0.0}, "conformal.*greater than 0"),
        ({"reject_risk": -0.1}, "reject_risk.*greater than 0"),
        ({"reject_below": 1.5}, "reject_below.*less than 1"),
        ({"reject_below": 0.5, "reject_risk": 0.1}, "give one of them"),
        ({"protocol": "zero_shot"}, "zero_shot has none"),
        ({"views": "4x3"}, "needs --views 1x1, got 4x3"),
        ({"is_requested": False, "reject_risk": 0.1}, "--reject-risk needs --calibrate"),
    ],
)
def test_wrong_option_names_the_fix(options, message):
    with pytest.raises(ConfigError, match=message):
        parse(**options)


def test_nothing_is_fitted_unless_it_is_requested():
    assert parse(False, views="4x3", conformal=None) is None
    assert parse(conformal=0.9).conformal == 0.9


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    logits = 3 * rng.normal(size=(60, 3)) + 4 * np.eye(3)[labels]
    return Scores(logits.astype(np.float32), labels)


def test_fit_records_what_it_is_based_on(scores):
    calibration = fit_calibration(
        scores, ("a", "b", "c"), parse(reject_risk=0.05, conformal=0.9), groups=np.arange(60) // 4
    )
    facts = calibration.validation
    assert (facts.num_videos, facts.num_groups, facts.max_risk) == (60, 15, 0.05)
    assert facts.log_loss[1] < facts.log_loss[0]
    assert facts.accepted_risk <= 0.05
    assert 0 < facts.accepted < 1
    assert facts.warnings == ()
    sets = calibration.prediction_sets(calibration.probabilities(scores.logits))
    assert sets[np.arange(60), scores.labels].mean() >= 0.9


def test_too_few_videos_for_a_level_are_warned_of(scores):
    few = Scores(scores.logits[:12], scores.labels[:12])
    calibration = fit_calibration(few, ("a", "b", "c"), parse(conformal=0.95))
    assert calibration.conformal_quantile == 1
    (warning,) = calibration.validation.warnings
    assert "12 validation videos are too few for conformal sets at level 0.95, which needs 19" in warning
    assert calibration.prediction_sets(np.array([[1.0, 0.0, 0.0]])).all()


def test_calibration_does_not_make_a_checkpoint_look_damaged(checkpoint, tmp_path):
    Calibration(temperature=2.0, classes=("a",)).write(checkpoint)
    check_checkpoint(checkpoint)
    copy_checkpoint(checkpoint, tmp_path / "copy")
    assert (tmp_path / "copy" / FILE).read_bytes() == (checkpoint / FILE).read_bytes()


def test_copy_keeps_the_calibration_of_the_same_tensors_only(checkpoint, tmp_path):
    target = tmp_path / "copy"
    copy_checkpoint(checkpoint, target)
    Calibration(temperature=2.0, classes=("a",)).write(target)
    copy_checkpoint(checkpoint, target)
    assert (target / FILE).is_file()
    (checkpoint / ADAPTER).write_bytes(b"others!")
    write_checksums(checkpoint, left_out=[ROWS])
    copy_checkpoint(checkpoint, target)
    assert not (target / FILE).exists()
