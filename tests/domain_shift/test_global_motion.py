import sys

import numpy as np
import pytest

from evclip_ray.config import ConfigError
from evclip_ray.domain_shift.global_motion import motion_between


@pytest.fixture
def wall():
    """Return (256, 256) luma of blurred rectangles, an even texture to pan over."""
    random = np.random.default_rng(0)
    image = np.full((256, 256), 0.5)
    for top, left in random.integers(0, 240, (150, 2)):
        image[top : top + random.integers(6, 24), left : left + random.integers(6, 24)] = random.uniform(
            0.1, 0.9
        )
    return image


def window(image, top, left, size=128):
    return image[top : top + size, left : left + size]


@pytest.mark.parametrize(("down", "right"), [(0, 1), (0, 4), (3, -5), (0, 16), (-10, 12)])
def test_pan_is_camera_motion_only(wall, down, right):
    camera, scene = motion_between(window(wall, 60, 60), window(wall, 60 + down, 60 + right))
    assert camera == pytest.approx(100 * np.hypot(down, right) / 128, rel=0.1)
    assert scene < 0.1 * camera


def test_moving_object_is_scene_motion_only(wall):
    still = window(wall, 60, 60)
    before, after = still.copy(), still.copy()
    before[40:72, 40:72] = after[40:72, 44:76] = window(wall, 0, 0, 32)
    camera, scene = motion_between(before, after)
    assert scene > 0.1
    assert camera < 0.1 * scene


def test_moving_object_during_pan_is_camera_and_scene_motion(wall):
    before, after = window(wall, 60, 60).copy(), window(wall, 60, 66).copy()
    before[40:72, 40:72] = after[40:72, 42:74] = window(wall, 0, 0, 32)
    camera, scene = motion_between(before, after)
    assert camera == pytest.approx(100 * 6 / 128, rel=0.1)
    assert scene > 0.1


def test_zoom_is_camera_motion(wall):
    positions = 64 + (np.arange(128) - 63.5) / 1.03
    rows, parts = positions.astype(int), positions % 1
    source = wall[40:200, 40:200]
    down = source[rows] * (1 - parts[:, None]) + source[rows + 1] * parts[:, None]
    zoomed = down[:, rows] * (1 - parts) + down[:, rows + 1] * parts
    camera, scene = motion_between(source[:128, :128], zoomed)
    # A zoom moves a pixel by 3 % of its distance from the centre. Its RMS over a square is side / sqrt(6).
    assert camera == pytest.approx(100 * 0.03 / np.sqrt(6), rel=0.25)
    assert scene < 0.3 * camera


def test_change_of_light_is_not_motion(wall):
    camera, scene = motion_between(window(wall, 60, 60) * 0.5, window(wall, 60, 60) * 0.9 + 0.05)
    assert camera < 0.02
    assert scene < 0.05


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_noise_on_blank_wall_is_not_motion(level):
    random = np.random.default_rng(0)
    before, after = level + random.normal(0, 0.01, (2, 128, 128))
    assert motion_between(np.full((128, 128), level), np.full((128, 128), level)) == (0, 0)
    camera, scene = motion_between(before, after)
    assert camera < 0.3
    assert scene < 0.3


def test_small_frames_are_measured(wall):
    camera, _ = motion_between(window(wall, 60, 60, 40), window(wall, 60, 62, 40))
    assert camera == pytest.approx(5, rel=0.1)


def test_missing_opencv_raises_one_line_error(monkeypatch, wall):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"^camera motion needs .*'cv2'.*evclip-ray\[shift\]\"$"):
        motion_between(wall, wall)
