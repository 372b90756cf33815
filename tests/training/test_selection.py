"""Choice of the videos that train and select, before any is decoded."""

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import record_rows
from evclip_ray.training.zero_shot import videos_key


def paths(plan, split):
    return {plan.manifest.column("path")[row] for row in plan.rows[split].tolist()}


def labels(plan, split):
    column = plan.manifest.column("label")
    return {column[row] for row in plan.rows[split]}


def test_base_and_novel_classes_are_disjoint_halves(plan_tiny):
    whole, base, novel = plan_tiny(), plan_tiny(data__classes="base"), plan_tiny(data__classes="novel")
    assert len(base.classes) == len(novel.classes) == 3
    assert set(base.classes) | set(novel.classes) == set(whole.classes)
    for split in ("train", "val"):
        assert labels(base, split) == set(base.classes)
        assert not labels(base, split) & labels(novel, split)


def test_file_of_names_sets_classes_and_order(plan_tiny, tmp_path):
    names = plan_tiny().classes
    chosen = (names[4], names[1])
    (tmp_path / "names.csv").write_text(f"id,name\n0,{chosen[0]}\n1,{chosen[1].upper()}\n")
    chosen_plan = plan_tiny(data__classes=str(tmp_path / "names.csv"), data__shots=2)
    assert chosen_plan.classes == chosen
    assert len(chosen_plan.rows["train"]) == 4
    assert labels(chosen_plan, "train") == set(chosen)


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_published_kshot_list_trains_on_all_shots(shots, plan_list):
    videos = plan_list({"train": shots, "test": 30}, classes=51)
    assert len(videos.rows["train"]) == 51 * shots
    assert (videos.selection, set(videos.rows)) == ("last_epoch", {"train"})
    assert (
        f"the list has {shots} training video{'s' * (shots > 1)} of each class" in videos.selection_lines()[0]
    )


def test_published_kshot_list_with_its_own_shots_holds_none_out(plan_list):
    videos = plan_list({"train": 4, "test": 3}, data__shots=4)
    assert (videos.selection, len(videos.rows["train"])) == ("last_epoch", 20)
    assert "the list has 4 training videos of each class" in videos.selection_lines()[0]
    fewer = plan_list({"train": 4, "test": 3}, data__shots=2)
    assert (fewer.selection, len(fewer.rows["train"])) == ("kshot_validation", 10)


def test_shots_that_validation_takes_name_the_fix(plan_list):
    with pytest.raises(ValueError, match=r"7 shots need 7 .* or set data\.selection=last_epoch"):
        plan_list({"train": 8, "test": 3}, data__shots=7)


@pytest.mark.parametrize("counts", [{"train": 4, "test": 3}, {"train": 5, "test": 3}])
def test_recorded_videos_keep_their_selection(counts, plan_list):
    before = plan_list(counts)
    # One more video per class makes a K-shot list of the second one, and no longer of the first one.
    after = plan_list({"train": 9 - counts["train"], "test": 3}, options={"recorded": record_rows(before)})
    assert after.selection == before.selection
    assert set(after.rows) == set(before.rows)


def test_old_few_shot_study_keeps_its_selection_once_recorded(plan_list):
    counts = {"train": 10, "val": 6, "test": 2}
    old = plan_list(counts, data__shots=2, options={"legacy": True})
    again = plan_list(counts, data__shots=2, options={"recorded": record_rows(old)})
    assert paths(again, "val") == paths(old, "val")


def test_list_without_splits_holds_out_test_alone(plan_list):
    text = {"": 10}
    whole = plan_list(text, data__selection="last_epoch")
    part = plan_list(text, data__selection="validation")
    assert set(whole.rows) == {"train"}
    # The same videos are tested, whatever selects.
    assert paths(whole, "train") == paths(part, "train") | paths(part, "val")


def test_few_shots_select_on_as_many_videos_as_they_train(plan_list):
    counts = {"train": 18 * 5, "test": 7 * 5}
    videos = plan_list(counts, classes=101, data__shots=2)
    assert {split: len(rows) for split, rows in videos.rows.items()} == {"train": 202, "val": 202}
    assert "202 validation videos for 202 training videos (ratio 1.00)" in videos.selection_lines()[0]
    whole = plan_list(counts, classes=101, data__shots=2, data__selection="validation")
    assert len(whole.rows["val"]) > 1000
    assert paths(videos, "val") < paths(whole, "val")
    assert whole.selection_lines()[1].startswith(
        "WARNING: 1,818 validation videos select what 202 videos train"
    )


def test_val_shots_are_nested_and_take_all_of_small_classes(plan_list):
    counts = {"train": 9, "val": 6}
    small, large = (plan_list(counts, data__val_shots=shots) for shots in (2, 4))
    assert small.selection == "kshot_validation"
    assert paths(small, "val") < paths(large, "val")
    assert len(plan_list(counts, data__val_shots=50).rows["val"]) == 30


def test_old_studies_select_on_all_validation_videos(plan_list):
    counts = {"train": 10, "val": 6, "test": 2}
    videos = plan_list(counts, data__shots=2, options={"legacy": True})
    assert len(videos.rows["val"]) == 30
    old = plan_list({"train": 16, "test": 30}, options={"legacy": True})
    assert len(old.rows["train"]) < 16 * 5


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


def test_preset_published_trains_on_all_videos(plan_list):
    videos = plan_list({"train": 20, "test": 5}, preset="published")
    assert len(videos.rows["train"]) == 100
    assert videos.selection == "last_epoch"
