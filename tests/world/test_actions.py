"""Names, held-out combinations and order pairs of the actions."""

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.world.actions import ACTIONS, HELD_OUT, MOTIONS, PARTS, find_action, same_in_a_still


def test_number_of_actions_is_at_least_40():
    assert len(ACTIONS) >= 40
    assert all(name == action.name for name, action in ACTIONS.items())


def test_held_out_combinations_are_eight_limb_motions():
    assert len(HELD_OUT) == 8
    assert all(ACTIONS[name].part for name in HELD_OUT)


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_stays_in_three_combinations(motion):
    seen = [action for action in ACTIONS.values() if action.motion == motion and not action.held_out]
    assert len(seen) >= 3


@pytest.mark.parametrize("part", PARTS)
def test_every_part_stays_in_three_combinations(part):
    seen = [action for action in ACTIONS.values() if action.part == part and not action.held_out]
    assert len(seen) >= 3


def test_held_out_actions_differ_in_a_still():
    groups = {same for name in HELD_OUT for same in same_in_a_still(name)}
    assert groups == set(HELD_OUT)


def test_order_pairs_name_each_other():
    pairs = [action for action in ACTIONS.values() if action.reverse_of]
    assert len(pairs) >= 10
    assert all(ACTIONS[action.reverse_of].reverse_of == action.name for action in pairs)


def test_same_in_a_still_of_an_order_pair():
    assert same_in_a_still("standing up") == ("standing up", "sitting down")
    assert same_in_a_still("jumping") == ("jumping",)


def test_unknown_action_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"'waving left arm' is unknown; did you mean 'waving the left arm'"
    ):
        find_action("waving left arm")
