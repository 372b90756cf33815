"""Skeleton of the figure: limb lengths, standing feet and sides."""

import numpy as np
import pytest

from evclip_ray.world.actions import ACTIONS, pose_over_time
from evclip_ray.world.figure import CLOTHES, JOINTS, SKINS, draw_look, joint_positions

TIME = np.linspace(0, 1, 9)


@pytest.fixture(scope="module")
def look():
    return draw_look(np.random.default_rng(5))


def joints_of(action, look, seed=0):
    pose = pose_over_time(ACTIONS[action], TIME, np.random.default_rng(seed))
    return dict(zip(JOINTS, joint_positions(pose, look).transpose(1, 0, 2), strict=True))


@pytest.mark.parametrize("action", ACTIONS)
def test_arms_keep_their_length(action, look):
    joints = joints_of(action, look)
    for side in ("left", "right"):
        upper = np.linalg.norm(joints[f"{side} shoulder"] - joints[f"{side} elbow"], axis=1)
        np.testing.assert_allclose(upper, look.sizes["arm"] / 2)


@pytest.mark.parametrize("action", ["squatting", "sitting down", "stretching the right leg", "bowing"])
def test_standing_foot_stays_in_place(action, look):
    foot = joints_of(action, look)["left foot"]
    assert np.ptp(foot, axis=0).max() < 0.02


@pytest.mark.parametrize(("side", "way"), [("left", -1), ("right", 1)])
def test_raised_limb_is_on_its_side_of_the_picture(side, way, look):
    hand = joints_of(f"stretching the {side} arm", look)[f"{side} hand"]
    foot = joints_of(f"raising the {side} leg", look)[f"{side} foot"]
    assert way * hand[-1, 0] > 0.3
    assert way * foot[-1, 0] > 0.3


def test_crossing_arm_ends_on_the_other_side(look):
    assert joints_of("crossing the left arm", look)["left hand"][-1, 0] > -0.05


def test_looks_use_different_named_colours():
    random = np.random.default_rng(0)
    looks = [draw_look(random) for _ in range(100)]
    assert {look.shirt for look in looks} == {look.trousers for look in looks} == set(CLOTHES)
    assert {look.skin for look in looks} == set(SKINS)
    assert all(look.shirt != look.trousers for look in looks)
