"""Scenes: determinism, shared looks, dials, masks and errors."""

import numpy as np
import pytest

from evclip_ray.config import ConfigError
from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.domains import DOMAINS
from evclip_ray.world.figure import JOINTS
from evclip_ray.world.scenes import draw_scene, draw_still


def brightness(scene):
    return scene.frames.mean()


@pytest.mark.parametrize("action", ACTIONS)
def test_scene_has_its_shapes_and_a_visible_actor(action):
    scene = draw_scene(action, seed=[3], num_frames=4, size=64)
    assert scene.frames.shape == (4, 64, 64, 3)
    assert scene.actor_mask.shape == scene.limb_mask.shape == (4, 64, 64)
    assert scene.frames.dtype == scene.actor_mask.dtype == np.uint8
    assert scene.joints.shape == (4, len(JOINTS), 2)
    assert 0.02 < (scene.actor_mask > 127).mean() < 0.4
    assert (scene.limb_mask > 127).any()
    assert (scene.limb_mask <= scene.actor_mask).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_gives_the_same_bytes(domain):
    first, second = (draw_scene("waving the left arm", seed=[1, 2], domain=domain) for _ in range(2))
    assert first.frames.tobytes() == second.frames.tobytes()
    assert first.limb_mask.tobytes() == second.limb_mask.tobytes()


@pytest.mark.parametrize("domain", DOMAINS)
def test_dial_zero_equals_plain(domain):
    plain = draw_scene("bending the left leg", seed=[4])
    scene = draw_scene("bending the left leg", seed=[4], domain=domain, dial=0)
    np.testing.assert_array_equal(scene.frames, plain.frames)
    np.testing.assert_array_equal(scene.actor_mask, plain.actor_mask)


@pytest.mark.parametrize("domain", ["dark", "egocentric", "clutter"])
def test_dial_one_changes_the_pictures(domain):
    plain = draw_scene("bending the left leg", seed=[4])
    scene = draw_scene("bending the left leg", seed=[4], domain=domain)
    assert (scene.frames != plain.frames).any()


def test_seeds_of_another_length_differ():
    assert (draw_still("jumping", seed=[1]).frames != draw_still("jumping", seed=[1, 0]).frames).any()


def test_look_seed_shares_look_and_background():
    scenes = [draw_scene("jumping", seed=[index], look_seed=[9]) for index in range(2)]
    assert scenes[0].look == scenes[1].look
    everywhere = ((scenes[0].actor_mask == 0) & (scenes[1].actor_mask == 0))[..., None]
    assert (scenes[0].frames == scenes[1].frames)[
        np.broadcast_to(everywhere, scenes[0].frames.shape)
    ].mean() > 0.98
    assert (scenes[0].joints != scenes[1].joints).any()


@pytest.mark.parametrize("action", [action.name for action in ACTIONS.values() if action.reverse_of])
def test_order_pair_shows_the_frames_in_reverse(action):
    forward = draw_scene(action, seed=[5], num_frames=4)
    backward = draw_scene(ACTIONS[action].reverse_of, seed=[5], num_frames=4)
    np.testing.assert_array_equal(forward.frames, backward.frames[::-1])


def test_dark_dial_lowers_the_brightness():
    levels = [
        brightness(draw_scene("bowing", seed=[6], domain="dark", dial=dial)) for dial in (0, 0.3, 0.6, 1)
    ]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] < 0.2 * levels[0]


def test_clutter_hides_parts_of_some_actors():
    shares = []
    for seed in range(12):
        plain = draw_still("raising both arms", seed=[seed])
        clutter = draw_still("raising both arms", seed=[seed], domain="clutter")
        # The actor of clutter is smaller by 12 %.
        shares.append(clutter.actor_mask.sum() / plain.actor_mask.sum() / 0.88**2)
    assert 0.3 < np.mean(shares) < 0.98


def test_clutter_actor_stands_at_either_side():
    # With an actor in the middle a map of 3 x 3 cells would not have to say who acts.
    columns = []
    for seed in range(24):
        mask = draw_still("squatting", seed=[seed], domain="clutter").actor_mask[0].astype(float)
        columns.append((mask.sum(0) * np.arange(96)).sum() / mask.sum() / 96)
    left = np.array(columns) < 0.5
    assert 6 <= left.sum() <= 18
    assert abs(np.array(columns) - 0.5).min() > 0.1


def test_masks_and_joints_follow_the_camera():
    scene = draw_scene("waving both arms", seed=[8], domain="egocentric")
    rows, columns = (axis.mean() for axis in np.nonzero(scene.actor_mask[0] > 127))
    inside = scene.joints[0][((scene.joints[0] > 0) & (scene.joints[0] < 96)).all(axis=1)]
    assert np.abs(inside.mean(axis=0) - (columns, rows)).max() < 15


def test_limb_mask_lies_on_the_moving_arm():
    scene = draw_still("stretching the left arm", seed=[2])
    column, row = np.floor(scene.joints[0, JOINTS.index("left hand")]).astype(int)
    assert scene.limb_mask[0, row, column] == 255
    column, row = np.floor(scene.joints[0, JOINTS.index("right hand")]).astype(int)
    assert scene.limb_mask[0, row, column] == 0


def test_whole_body_action_has_the_figure_as_limb_mask():
    scene = draw_still("squatting", seed=[2])
    np.testing.assert_array_equal(scene.limb_mask, scene.actor_mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "jumpin"}, "did you mean 'jumping'"),
        ({"domain": "darc"}, "did you mean 'dark'"),
        ({"dial": 1.5}, "dial is 1.5"),
        ({"size": 8}, "size is 8 pixels"),
        ({"num_frames": 0}, "num_frames is 0"),
    ],
)
def test_bad_argument_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        draw_scene(**({"action": "jumping", "seed": [0]} | arguments))
