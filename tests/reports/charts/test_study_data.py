import numpy as np
import pandas as pd
import pytest
from made_studies import write_study

from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.reports.charts import study_data
from evclip_ray.results import Study


@pytest.fixture
def study(tmp_path):
    return Study.load(write_study(tmp_path / "study", trials=12, epochs=6, states=["stopped", "failed"]))


def test_history_has_interval_of_the_best_so_far(study):
    history = study_data.history(study)
    assert list(history["number"]) == sorted(history["number"])
    assert len(history) == 11
    np.testing.assert_allclose(history["best_top1"], history["val_top1"].cummax())
    leader = history[history["val_top1"] == history["best_top1"].iloc[-1]].iloc[0]
    assert history["best_top1_low"].iloc[-1] == leader["val_top1_low"]


def test_axes_follow_the_search_space(study):
    kinds = {axis.path: axis.kind for axis in study_data.axes(study)}
    method = {"method.mask.depth": "whole", "method.prompts": "category"}
    assert kinds == method | {"optim.lr": "log", "optim.weight_decay": "linear"}


def test_parallel_puts_missing_settings_outside(study):
    lines, marks = study_data.parallel(study)
    present = lines[lines["value"] != "not set"]
    assert present["place"].between(0, 1).all()
    absent = lines[lines["value"] == "not set"]
    assert (absent["place"] == study_data.NOT_SET).all()
    assert set(absent["axis"]) == {"mask.depth"}
    rate = lines[lines["axis"] == "lr (log scale)"].set_index("trial")["place"]
    chosen = study.trials.set_index("trial")["optim.lr"]
    assert rate.idxmax() == chosen[rate.index].idxmax()
    assert rate.idxmin() == chosen[rate.index].idxmin()
    assert {"both", "context", "mask"} <= set(marks["label"])


def test_axes_of_a_single_trial_are_empty(tmp_path):
    study = Study.load(write_study(tmp_path, trials=1))
    assert study_data.axes(study) == []
    assert len(study_data.history(study)) == 1


def test_thinned_curves_keep_first_and_last_epoch(tmp_path):
    study = Study.load(write_study(tmp_path, trials=3, epochs=100))
    drawn = study_data.curves(study)
    assert (
        drawn.groupby("trial")["epoch"].agg(["min", "max", "count"]).to_numpy().tolist() == [[1, 100, 40]] * 3
    )
    assert drawn["last"].sum() == 3


def test_curves_name_the_best_trials(study):
    lines = study_data.line_names(study_data.curves(study))
    best = list(study.trials.sort_values("rank")["trial"])
    assert lines == [f"{best[0]}, the best", *best[1:6], study_data.OTHERS]


def test_curves_name_all_of_seven_trials(tmp_path):
    study = Study.load(write_study(tmp_path, trials=7))
    assert study_data.OTHERS not in study_data.line_names(study_data.curves(study))


def test_references_are_zero_shot_and_chance(study):
    top1 = study_data.references(study, "val_top1", chance=True).set_index("name")["value"]
    assert top1.to_dict() == pytest.approx({"zero-shot CLIP": 1 / 3, "chance": 1 / 3})
    # The zero-shot scores of this study have no loss.
    loss = study_data.references(study, "val_loss", chance=True).set_index("name")["value"]
    assert loss.to_dict() == pytest.approx({"chance": np.log(3)})


def test_curves_leave_out_epochs_with_nan(tmp_path):
    study = Study.load(write_study(tmp_path, trials=3, epochs=6, states=["diverged"] * 3, nan_from=3))
    drawn = study_data.curves(study)
    assert drawn["epoch"].max() == 2
    assert drawn["val_top1"].notna().all()


def test_confusion_shares_are_of_the_true_class():
    table = pd.DataFrame({"true \\ predicted": ["a", "b"], "a": [3, 0], "b": [1, 0]})
    cells = study_data.confusion(table).set_index(["true", "predicted"])
    assert cells.loc[("a", "a"), "share"] == 0.75
    assert cells.loc[("b", "b"), "share"] == 0


def test_gains_are_sorted_and_have_intervals():
    accuracies = {"zero_shot": [0.5, 0.25, None], "adapted": [0.6, 1.0, None]}
    per_class = pd.DataFrame({"class": ["x", "y", "z"], "videos": [10, 4, 0], **accuracies})
    gains = study_data.gains(per_class)
    assert list(gains["class"]) == ["y", "x"]
    assert (gains["adapted_low"].iloc[1], gains["adapted_high"].iloc[1]) == wilson_interval(6, 10)
    assert (gains["zero_shot_low"].iloc[0], gains["zero_shot_high"].iloc[0]) == wilson_interval(1, 4)
