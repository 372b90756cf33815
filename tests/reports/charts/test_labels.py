import pytest

from evclip_ray.reports.charts.labels import columns, log_ticks, name_axis, short_names

LIMBS = [
    f"bending the {side} {limb} slowly to the side" for side in ("left", "right") for limb in ("arm", "leg")
]


def test_short_names_stay_different():
    short = short_names([*LIMBS, "hug"], limit=20)
    assert len(set(short.values())) == 5
    assert short["hug"] == "hug"
    assert max(map(len, short.values())) <= 20


def test_short_names_are_cut_in_the_middle():
    assert short_names(["raising the right arm to the side"], 20) == {
        "raising the right arm to the side": "raising th…the side"
    }


def test_name_that_equals_a_short_one_stays_different():
    names = ["abcdefghij", "abc…ij"]
    assert short_names(names, 6) == {"abcdefghij": "ab…hij", "abc…ij": "abc…ij"}


def test_name_axis_keeps_names_of_javascript_members():
    expression = name_axis(["constructor", "a" * 40]).to_dict()["labelExpr"]
    assert '"constructor": "constructor"' in expression
    assert "labelExpr" not in name_axis(["constructor"]).to_dict()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(3e-5, 0.03, [1e-4, 1e-3, 1e-2]), (0.0018, 0.0055, [0.002, 0.005]), (3, 4, None), (2, 2, None)],
)
def test_log_ticks_are_few_round_numbers(low, high, ticks):
    assert log_ticks(low, high) == ticks


def test_wide_letters_count_twice():
    names = ["一边慢慢转身一边把右臂举过头顶", "一边慢慢转身一边把左臂举过头顶"]
    short = short_names(names, limit=20)
    assert len(set(short.values())) == 2
    assert max(map(columns, short.values())) <= 20
