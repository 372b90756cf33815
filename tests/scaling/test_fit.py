import math

import pytest

from evclip_ray.scaling.bootstrap import Score
from evclip_ray.scaling.fit import StepScore, fit, fit_costs

COSTS = [1.0, 4.0, 16.0, 64.0, 256.0]


def scores(top1, costs=COSTS, videos=1_000_000):
    return [StepScore(f"r{i}", x, Score(y, videos)) for i, (x, y) in enumerate(zip(costs, top1, strict=True))]


def test_power_law_is_recovered():
    fitted = fit("power_law", scores([1 - 0.4 * (x / 16) ** -0.3 for x in COSTS]))
    assert fitted["status"] == "fitted"
    assert fitted["reference_cost"] == pytest.approx(16)
    assert fitted["parameters"]["a"]["value"] == pytest.approx(0.4, abs=1e-6)
    assert fitted["parameters"]["b"]["value"] == pytest.approx(0.3, abs=1e-6)
    assert fitted["rmse"] < 1e-6
    low, high = fitted["parameters"]["b"]["interval"]
    assert low - 1e-9 <= 0.3 <= high + 1e-9


def test_ceiling_is_recovered():
    fitted = fit("saturating", scores([0.8 - 0.2 * (x / 16) ** -0.5 for x in COSTS]))
    assert fitted["parameters"]["c"]["value"] == pytest.approx(0.8, abs=0.005)
    assert fitted["rmse"] < 1e-3


def test_falling_ladder_has_negative_exponent_and_no_ceiling():
    falling = [0.8, 0.7, 0.6, 0.5, 0.4]
    assert fit("power_law", scores(falling))["parameters"]["b"]["value"] < 0
    fitted = fit("saturating", scores(falling))
    assert fitted["parameters"]["a"]["value"] == 0, "a flat line, not a ceiling that is approached from above"


@pytest.mark.parametrize("top1", [0.0, 1.0])
def test_intervals_have_a_width_if_all_or_no_videos_are_right(top1):
    fitted = fit("power_law", scores([top1] * 5, videos=12))
    low, high = fitted["parameters"]["b"]["interval"]
    assert low < high
    # Wilson's interval of 0/12 is 0 to 0.24.
    assert 0.03 < max(point["high"] - point["low"] for point in fitted["curve"]) < 0.5


def test_intervals_narrow_with_more_videos():
    top1 = [0.5, 0.6, 0.65, 0.7, 0.72]
    widths = []
    for videos in (30, 3000):
        low, high = fit("power_law", scores(top1, videos=videos))["parameters"]["a"]["interval"]
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    curve = fit("power_law", scores(top1, videos=100))["curve"]
    assert curve[0]["cost"] == pytest.approx(1)
    assert curve[-1]["cost"] == pytest.approx(256)
    assert all(point["low"] <= point["top1"] <= point["high"] for point in curve)


@pytest.mark.parametrize(("form", "steps"), [("power_law", 2), ("saturating", 3), ("power_law", 1)])
def test_too_few_steps_are_reported(form, steps):
    fitted = fit(form, scores([0.5, 0.6, 0.7][:steps], COSTS[:steps]))
    assert fitted["status"].startswith(
        f"not enough steps: {steps} of different cost, {steps + 1 if steps > 1 else 3}"
    )
    assert "curve" not in fitted


def test_steps_of_equal_cost_count_once():
    fitted = fit("power_law", scores([0.5, 0.6, 0.7], [2.0, 2.0, 4.0]))
    assert fitted["status"].startswith("not enough steps: 2")


def test_steps_without_a_score_are_reported_by_name():
    some = Score(0.5, 50)
    rows = [
        {"rung": "a", "gmac": 1.0, "score": Score(0.4, 50)},
        {"rung": "b", "gmac": 2.0, "score": None},
        {"rung": "c", "gmac": None, "score": some},
        {"rung": "d", "gmac": 8.0, "score": some},
        {"rung": "e", "gmac": math.nan, "score": some},
        {"rung": "f", "gmac": 32.0, "score": Score(0.7, 50)},
    ]
    power, saturating = fit_costs(rows, ["gmac"])
    assert power["left_out"] == ["b", "c", "e"]
    assert power["status"] == "fitted"
    assert saturating["status"].startswith("not enough steps: 3")


def test_steps_at_zero_and_one_can_be_fitted():
    fitted = fit("power_law", scores([0.0, 0.5, 1.0], COSTS[:3], videos=20))
    assert all(0 <= point["low"] <= point["top1"] <= point["high"] <= 1 for point in fitted["curve"])
