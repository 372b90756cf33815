import math

from evclip_ray.scaling.pareto import FRONTS, mark_fronts, on_front


def row(top1, latency, total=1.0, trainable=1.0):
    return {
        "val_top1": top1,
        "latency_seconds": latency,
        "total_parameters": total,
        "trainable_parameters": trainable,
    }


def test_dominated_row_is_off_the_front():
    rows = [row(0.5, 1), row(0.7, 2), row(0.6, 3), row(0.9, 9)]
    assert on_front(rows, ["latency_seconds"]) == [True, True, False, True]


def test_equal_rows_share_the_front_and_ties_use_other_column():
    rows = [row(0.5, 1), row(0.5, 1), row(0.5, 2), row(0.6, 2)]
    assert on_front(rows, ["latency_seconds"]) == [True, True, False, True]


def test_single_step_is_on_the_front():
    (marked,) = mark_fronts([row(0.5, 1)])
    assert all(marked[name] is True for name in FRONTS)


def test_step_without_a_score_is_undecided():
    rows = [row(math.nan, 0.1), row(0.5, 1), row(0.9, None)]
    assert on_front(rows, ["latency_seconds"]) == [None, True, None]
    assert [marked["pareto_total_parameters"] for marked in mark_fronts(rows)] == [None, False, True]


def test_further_costs_only_add_to_the_front():
    rows = [row(0.5, 1, total=9), row(0.7, 2, total=5), row(0.6, 3, total=1)]
    marked = mark_fronts(rows)
    assert [r["pareto_latency"] for r in marked] == [True, True, False]
    assert [r["pareto"] for r in marked] == [True, True, True]
