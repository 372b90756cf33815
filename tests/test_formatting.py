import doctest
import math

import pytest

from evclip_ray import formatting


def test_examples_in_docstrings():
    assert doctest.testmod(formatting).failed == 0


def test_duration_chooses_the_unit():
    assert [formatting.duration(seconds) for seconds in (12, 600, 9000)] == ["12 s", "10 min", "2.5 h"]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_short_of_a_missing_value(missing):
    assert formatting.short(missing) == str(missing)
    assert formatting.short(missing, missing="not set") == "not set"


def test_with_interval_of_missing_values():
    assert formatting.with_interval(math.nan, 0.1, 0.2) == "–"
    assert formatting.with_interval(0.5, math.nan, math.nan) == "0.500"


def test_sizes_have_their_unit():
    assert formatting.megabytes(1_234_567_890) == "1,234.6 MB"
    assert [formatting.binary_size(2**power) for power in (20, 30)] == ["1.0 MiB", "1.0 GiB"]


def test_unique_tail_keeps_ambiguous_names_apart():
    paths = ["optim.lr", "method.mask.depth", "method.context.depth", "backbone.name"]
    assert [formatting.unique_tail(path, paths) for path in paths] == [
        "lr",
        "mask.depth",
        "context.depth",
        "backbone.name",
    ]
