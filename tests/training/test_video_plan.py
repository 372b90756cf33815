"""Rows of each split of a plan, folds of the cross-validation, and errors of empty splits."""

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import plan_videos


def paths(plan, split):
    return {plan.manifest.column("path")[row] for row in plan.rows[split].tolist()}


def test_plan_contains_only_requested_splits(plan_tiny):
    assert set(plan_tiny().rows) == {"train", "val"}
    assert set(plan_tiny(splits=("test",), data__shots=2).rows) == {"test"}


def test_unknown_split_names_those_of_the_list(make_experiment, tmp_path):
    with pytest.raises(
        ConfigError, match=r"split 'tset' is unknown; did you mean 'test'\? \(splits in .*train, "
    ):
        plan_videos(make_experiment(), cache=tmp_path, splits=("train", "tset"))


def test_file_in_two_splits_is_refused_unless_leaks_allowed(plan_tiny, tiny_manifest, tmp_path):
    rows = tiny_manifest.read_text().splitlines()
    trained = next(row for row in rows if '"train"' in row)
    path = tmp_path / "leaky.csv"
    path.write_text("\n".join([*rows, trained.replace('"train"', '"test"')]))
    settings = {"data__manifest": str(path), "data__root": str(tiny_manifest.parent)}
    with pytest.raises(ManifestError, match="in more than one split"):
        plan_tiny(**settings)
    assert plan_tiny(**settings, data__allow_leaks=True).leaking_rows >= 2


def test_folds_with_validation_videos_are_refused(plan_list):
    with pytest.raises(ValueError, match=r"data\.folds \(3\) has no effect.* 10 validation videos"):
        plan_list({"train": 6, "val": 2, "test": 3}, data__folds=3)


@pytest.mark.parametrize("shots", [2, 4, 8, 16])
def test_study_of_kshot_list_scores_shots_by_folds(shots, plan_list):
    videos = plan_list({"train": shots, "test": 30}, classes=51, options={"cross_validate": True})
    assert videos.folds == min(4, shots)
    assert videos.num_selecting == len(videos.rows["train"]) == 51 * shots
    assert all(path.split("/")[1].startswith("train") for path in paths(videos, "train"))


def test_study_of_one_shot_is_refused_with_the_fix(plan_list):
    with pytest.raises(ValueError, match=r"5 of 5 classes have fewer: .* Mark some other videos as 'val'"):
        plan_list({"train": 1, "test": 30}, options={"cross_validate": True})


def test_development_set_is_the_score_of_the_last_epoch(plan_list):
    counts = {"train": 1, "val": 2, "test": 3}
    videos = plan_list(counts, data__selection="last_epoch", options={"cross_validate": True})
    assert {split: len(rows) for split, rows in videos.rows.items()} == {"train": 5, "val": 10}
    assert videos.folds == 0
    assert not any("test" in path for split in videos.rows for path in paths(videos, split))


def test_folds_keep_groups_and_count_them(plan_list):
    counts = {"train": 6, "test": 4}
    videos = plan_list(counts, group=True, data__selection="last_epoch", options={"cross_validate": True})
    assert videos.folds == 3


def test_single_video_and_validation_names_the_fix(plan_list):
    with pytest.raises(ValueError, match=r"'val' split is empty .* data\.selection=last_epoch"):
        plan_list({"train": 1, "test": 5}, data__selection="validation")


@pytest.mark.parametrize("settings", [{}, {"data.test_fraction": 0}])
def test_too_few_videos_name_what_is_needed(tmp_path, settings):
    for name in ("hug/1.mp4", "hug/2.mp4", "kick/1.mp4", "kick/2.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    experiment = ExperimentConfig.load({"data": {"manifest": str(tmp_path)}}, settings)
    if settings:
        rows = plan_videos(experiment, cache=tmp_path).rows
        assert [len(rows[split]) for split in ("train", "val")] == [2, 2]
    else:
        with pytest.raises(
            ValueError, match=r"of 2 classes, the smallest has 2 videos, and 3 .*test_fraction=0"
        ):
            plan_videos(experiment, cache=tmp_path)
