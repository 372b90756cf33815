"""Domains: classes, class frequencies and errors."""

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.domains import DOMAINS, check_dial, find_domain


def test_temporal_has_only_order_pairs():
    names = DOMAINS["temporal"].actions
    assert len(names) >= 10
    assert all(ACTIONS[name].reverse_of in names for name in names)


def test_other_domains_have_all_actions():
    assert DOMAINS["clutter"].actions == tuple(ACTIONS)


def test_long_tail_follows_a_power_law():
    domain = DOMAINS["long_tail"]
    assert domain.class_share(0) == 1
    assert domain.class_share(3) == pytest.approx(4**-1.5)
    assert domain.class_share(3, 0.5) == pytest.approx(4**-0.75)
    assert domain.class_share(3, 0.0) == 1


def test_other_domains_have_equal_class_frequencies():
    assert DOMAINS["dark"].class_share(20) == 1


def test_unknown_domain_names_the_nearest():
    with pytest.raises(ConfigError, match="'cluter' is unknown; did you mean 'clutter'"):
        find_domain("cluter")


@pytest.mark.parametrize("dial", [-0.1, 1.01, float("nan")])
def test_dial_out_of_range_is_rejected(dial):
    with pytest.raises(ConfigError, match=r"from 0 .* to 1"):
        check_dial(dial)
