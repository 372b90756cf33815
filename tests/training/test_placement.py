import pytest

from evclip_ray.training.placement import GIB, Need, concurrent_trials

NODE = {"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GIB}


@pytest.mark.parametrize(
    ("need", "nodes", "expected"),
    [
        (Need(1, 0, GIB), [NODE], 16),
        (Need(1, 1, GIB), [NODE], 2),
        (Need(1, 0.5, GIB), [NODE], 4),
        (Need(1, 1 / 3, GIB), [NODE], 6),
        (Need(1, 0, 30 * GIB), [NODE], 2),
        (Need(4, 1, GIB), [NODE, {"CPU": 8.0, "memory": 64.0 * GIB}], 2),
        (Need(1, 1, GIB, workers=4), [NODE, NODE], 1),
        (Need(2, 1, GIB, workers=2), [NODE, NODE], 2),
    ],
)
def test_the_scarcest_resource_decides_how_many_run_at_once(need, nodes, expected):
    assert concurrent_trials(need, nodes) == expected


@pytest.mark.parametrize(
    ("need", "nodes"),
    [
        (Need(1, 4, GIB), [NODE, NODE]),  # no single machine has four
        (Need(32, 0, GIB), [NODE]),
        (Need(1, 0, 100 * GIB), [NODE]),
        (Need(1, 1, GIB, workers=5), [NODE, NODE]),
        (Need(1, 0, GIB), []),
    ],
)
def test_a_trial_that_can_never_be_placed_says_the_numbers(need, nodes):
    with pytest.raises(ValueError, match="can never be placed: the cluster has"):
        concurrent_trials(need, nodes)
