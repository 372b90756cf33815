import pytest
from gpu_markers import sees_gpus


@pytest.mark.parametrize("expression", ["gpu", "cluster", "gpu or cluster", "gpu and not slow"])
def test_tests_of_gpus_alone_see_them(expression):
    assert sees_gpus(expression)


@pytest.mark.parametrize(
    "expression", ["", "slow", "gpu or slow", "not (gpu or slow)", "not slow and not gpu"]
)
def test_other_tests_see_no_gpus(expression):
    assert not sees_gpus(expression)
