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


def test_history_rises_with_the_interval_of_the_leader(study):
    frame = study_data.history(study)
    assert list(frame["number"]) == sorted(frame["number"])
    assert len(frame) == 11
    np.testing.assert_allclose(frame["best_top1"], frame["val_top1"].cummax())
    leader = frame[frame["val_top1"] == frame["best_top1"].iloc[-1]].iloc[0]
    assert frame["best_top1_low"].iloc[-1] == leader["val_top1_low"]


def test_settings_are_laid_out_as_they_were_searched(study):
    kinds = {axis.path: axis.kind for axis in study_data.axes(study)}
    assert kinds == {
        "method.mask.depth": "whole", "method.prompts": "category", "optim.lr": "log",
        "optim.weight_decay": "linear",
    }  # fmt: skip


def test_parallel_places_lie_between_the_ends_and_absent_settings_apart(study):
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


def test_a_single_trial_has_no_axis_to_be_laid_along(tmp_path):
    study = Study.load(write_study(tmp_path, trials=1))
    assert study_data.axes(study) == []
    assert len(study_data.history(study)) == 1


def test_thinned_curves_keep_their_ends(tmp_path):
    study = Study.load(write_study(tmp_path, trials=3, epochs=100))
    drawn = study_data.curves(study)
    assert (
        drawn.groupby("trial")["epoch"].agg(["min", "max", "count"]).to_numpy().tolist() == [[1, 100, 40]] * 3
    )
    assert drawn["last"].sum() == 3


def test_epochs_without_a_number_are_not_drawn(tmp_path):
    study = Study.load(write_study(tmp_path, trials=3, epochs=6, states=["diverged"] * 3, nan_from=3))
    drawn = study_data.curves(study)
    assert drawn["epoch"].max() == 2
    assert drawn["val_top1"].notna().all()


def test_confusion_counts_become_shares_of_the_true_class():
    table = pd.DataFrame({"true \\ predicted": ["a", "b"], "a": [3, 0], "b": [1, 0]})
    frame = study_data.confusion(table).set_index(["true", "predicted"])
    assert frame.loc[("a", "a"), "share"] == 0.75
    assert frame.loc[("b", "b"), "share"] == 0


def test_gains_are_ordered_and_have_intervals_of_both():
    per_class = pd.DataFrame(
        {
            "class": ["x", "y", "z"],
            "videos": [10, 4, 0],
            "zero_shot": [0.5, 0.25, None],
            "adapted": [0.6, 1.0, None],
        }
    )
    frame = study_data.gains(per_class)
    assert list(frame["class"]) == ["y", "x"]
    assert (frame["adapted_low"].iloc[1], frame["adapted_high"].iloc[1]) == wilson_interval(6, 10)
    assert (frame["zero_shot_low"].iloc[0], frame["zero_shot_high"].iloc[0]) == wilson_interval(1, 4)
