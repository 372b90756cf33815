import pytest

from evclip_ray.config import ConfigError
from evclip_ray.training.datamodule import plan_videos, record_rows
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.zero_shot import videos_key

SPLITS = {"train": "train", "val": "val", "test": "test"}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return a function that plans a list without videos: `counts` is split -> videos per class."""
    monkeypatch.setattr("evclip_ray.training.datamodule.check_files", lambda *_: None)

    def make(counts, *, classes=5, group=False, options=None, **overrides):
        lines = ["path,label,split,group" if group else "path,label,split"]
        for label in range(classes):
            for split, count in counts.items():
                for number in range(count):
                    name = f"c{label}/{split}_{number}.avi"
                    lines.append(
                        f"{name},c{label},{split}" + (f",c{label} {split} {number // 2}" if group else "")
                    )
        manifest = tmp_path / "list.csv"
        manifest.write_text("\n".join(lines))
        dotted = {path.replace("__", "."): value for path, value in overrides.items()}
        experiment = ExperimentConfig.load({"data": {"manifest": str(manifest)}}, dotted)
        return plan_videos(experiment, cache=tmp_path / "cache", **(options or {}))

    return make


def paths(plan, split):
    return {plan.manifest.column("path")[row] for row in plan.rows[split].tolist()}


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_published_kshot_list_trains_on_all_shots(shots, plan):
    videos = plan({"train": shots, "test": 30}, classes=51)
    assert len(videos.rows["train"]) == 51 * shots
    assert (videos.selection, set(videos.rows)) == ("last_epoch", {"train"})
    assert (
        f"the list has {shots} training video{'s' * (shots > 1)} of each class" in videos.selection_lines()[0]
    )


def test_published_kshot_list_with_its_own_shots_holds_none_out(plan):
    videos = plan({"train": 4, "test": 3}, data__shots=4)
    assert (videos.selection, len(videos.rows["train"])) == ("last_epoch", 20)
    assert "the list has 4 training videos of each class" in videos.selection_lines()[0]
    fewer = plan({"train": 4, "test": 3}, data__shots=2)
    assert (fewer.selection, len(fewer.rows["train"])) == ("kshot_validation", 10)


def test_shots_that_validation_takes_name_the_fix(plan):
    with pytest.raises(ValueError, match=r"7 shots need 7 .* or set data\.selection=last_epoch"):
        plan({"train": 8, "test": 3}, data__shots=7)


@pytest.mark.parametrize("counts", [{"train": 4, "test": 3}, {"train": 5, "test": 3}])
def test_recorded_videos_keep_their_selection(counts, plan):
    before = plan(counts)
    # One more video per class makes a K-shot list of the second one, and no longer of the first one.
    after = plan({"train": 9 - counts["train"], "test": 3}, options={"recorded": record_rows(before)})
    assert after.selection == before.selection
    assert set(after.rows) == set(before.rows)


def test_old_few_shot_study_keeps_its_selection_once_recorded(plan):
    counts = {"train": 10, "val": 6, "test": 2}
    old = plan(counts, data__shots=2, options={"legacy": True})
    again = plan(counts, data__shots=2, options={"recorded": record_rows(old)})
    assert paths(again, "val") == paths(old, "val")


def test_folds_with_validation_videos_are_refused(plan):
    with pytest.raises(ValueError, match=r"data\.folds \(3\) has no effect.* 10 validation videos"):
        plan({"train": 6, "val": 2, "test": 3}, data__folds=3)


@pytest.mark.parametrize("shots", [2, 4, 8, 16])
def test_study_of_kshot_list_scores_shots_by_folds(shots, plan):
    videos = plan({"train": shots, "test": 30}, classes=51, options={"cross_validate": True})
    assert videos.folds == min(4, shots)
    assert videos.num_selecting == len(videos.rows["train"]) == 51 * shots
    assert all(path.split("/")[1].startswith("train") for path in paths(videos, "train"))


def test_study_of_one_shot_is_refused_with_the_fix(plan):
    with pytest.raises(ValueError, match=r"5 of 5 classes have fewer: .* Mark some other videos as 'val'"):
        plan({"train": 1, "test": 30}, options={"cross_validate": True})


def test_development_set_is_the_score_of_the_last_epoch(plan):
    counts = {"train": 1, "val": 2, "test": 3}
    videos = plan(counts, data__selection="last_epoch", options={"cross_validate": True})
    assert {split: len(rows) for split, rows in videos.rows.items()} == {"train": 5, "val": 10}
    assert videos.folds == 0
    assert not any("test" in path for split in videos.rows for path in paths(videos, split))


def test_list_without_splits_holds_out_test_alone(plan):
    text = {"": 10}
    whole = plan(text, data__selection="last_epoch")
    part = plan(text, data__selection="validation")
    assert set(whole.rows) == {"train"}
    # The same videos are tested, whatever selects.
    assert paths(whole, "train") == paths(part, "train") | paths(part, "val")


def test_few_shots_select_on_as_many_videos_as_they_train(plan):
    counts = {"train": 18 * 5, "test": 7 * 5}
    videos = plan(counts, classes=101, data__shots=2)
    assert {split: len(rows) for split, rows in videos.rows.items()} == {"train": 202, "val": 202}
    assert "202 validation videos for 202 training videos (ratio 1.00)" in videos.selection_lines()[0]
    whole = plan(counts, classes=101, data__shots=2, data__selection="validation")
    assert len(whole.rows["val"]) > 1000
    assert paths(videos, "val") < paths(whole, "val")
    assert whole.selection_lines()[1].startswith(
        "WARNING: 1,818 validation videos select what 202 videos train"
    )


def test_val_shots_are_nested_and_take_all_of_small_classes(plan):
    counts = {"train": 9, "val": 6}
    small, large = (plan(counts, data__val_shots=shots) for shots in (2, 4))
    assert small.selection == "kshot_validation"
    assert paths(small, "val") < paths(large, "val")
    assert len(plan(counts, data__val_shots=50).rows["val"]) == 30


def test_old_studies_select_on_all_validation_videos(plan):
    counts = {"train": 10, "val": 6, "test": 2}
    videos = plan(counts, data__shots=2, options={"legacy": True})
    assert len(videos.rows["val"]) == 30
    old = plan({"train": 16, "test": 30}, options={"legacy": True})
    assert len(old.rows["train"]) < 16 * 5


def test_folds_keep_groups_and_count_them(plan):
    counts = {"train": 6, "test": 4}
    videos = plan(counts, group=True, data__selection="last_epoch", options={"cross_validate": True})
    assert videos.folds == 3


def test_single_video_and_validation_names_the_fix(plan):
    with pytest.raises(ValueError, match=r"'val' split is empty .* data\.selection=last_epoch"):
        plan({"train": 1, "test": 5}, data__selection="validation")


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


def test_unset_selection_keeps_keys_of_earlier_versions():
    experiment = ExperimentConfig.load({"data": {"manifest": "x.csv"}})
    assert not {"selection", "val_shots", "folds"} & experiment.model_dump(mode="json")["data"].keys()
    other = ExperimentConfig.load({"data": {"manifest": "x.csv"}}, {"data.selection": "last_epoch"})
    assert videos_key(experiment) != videos_key(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.selection": "kshot_validation"}, "Set data.val_shots"),
        ({"data.selection": "validation", "data.val_shots": 2}, "needs data.selection=kshot_validation"),
        (
            {"data.shots": 2, "data.selection": "validation", "data.folds": 2},
            "needs data.selection=last_epoch",
        ),
        ({"data.val_shots": 2, "data.folds": 2}, "got data.val_shots=2"),
    ],
)
def test_settings_of_another_selection_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig.load({"data": {"manifest": "x.csv"}}, settings)


def test_preset_published_trains_on_all_videos(plan):
    videos = plan({"train": 20, "test": 5}, preset="published")
    assert len(videos.rows["train"]) == 100
    assert videos.selection == "last_epoch"
