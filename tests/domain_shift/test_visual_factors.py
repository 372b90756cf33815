import numpy as np
import pytest

from evclip_ray.domain_shift.visual_factors import VISUAL_FACTORS, visual_factors


@pytest.fixture
def scene():
    """Return (3, 96, 96, 3) uint8 frames of coloured rectangles without motion."""
    random = np.random.default_rng(1)
    image = np.full((96, 96, 3), 120.0)
    for top, left in random.integers(0, 90, (60, 2)):
        image[top : top + 12, left : left + 12] = random.uniform(20, 240, 3)
    return np.repeat(image[None], 3, 0).astype(np.uint8)


def blurred(frames):
    padded = np.pad(frames.astype(float), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    total = sum(padded[:, y : y + 96, x : x + 96] for y in range(5) for x in range(5))
    return (total / 25).astype(np.uint8)


def test_factors_equal_those_of_the_registry(scene):
    assert list(visual_factors(scene)) == list(VISUAL_FACTORS)


def test_darkened_copy_differs_mainly_in_luminance(scene):
    light, dark = visual_factors(scene), visual_factors((scene * 0.4).astype(np.uint8))
    assert dark["luminance"] == pytest.approx(0.4 * light["luminance"], rel=0.02)
    for name in ("contrast", "saturation"):
        assert dark[name] == pytest.approx(light[name], rel=0.05)
    assert dark["sharpness"] == pytest.approx(light["sharpness"], abs=0.05)
    assert dark["camera_motion"] == dark["scene_motion"] == 0


def test_each_change_of_appearance_moves_its_factor(scene):
    plain = visual_factors(scene)
    grey = visual_factors(np.repeat(scene.mean(-1, keepdims=True), 3, -1).astype(np.uint8))
    assert grey["saturation"] < 0.01 < plain["saturation"]
    flat = visual_factors((120 + (scene.astype(float) - 120) * 0.3).astype(np.uint8))
    assert flat["contrast"] < 0.5 * plain["contrast"]
    assert visual_factors(blurred(scene))["sharpness"] < plain["sharpness"] - 0.5


def test_white_has_luminance_one_and_black_is_finite():
    white = visual_factors(np.full((2, 32, 32, 3), 255, np.uint8))
    assert white["luminance"] == pytest.approx(1)
    assert white["saturation"] == white["contrast"] == 0
    assert set(visual_factors(np.zeros((2, 32, 32, 3), np.uint8)).values()) == {0.0}


def test_green_is_lighter_than_blue():
    green, blue = np.zeros((2, 2, 32, 32, 3), np.uint8)
    green[..., 1] = blue[..., 2] = 200
    assert visual_factors(green)["luminance"] > 5 * visual_factors(blue)["luminance"]


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (2, 32, 32), (2, 32, 32, 4)])
def test_unmeasurable_frames_are_refused(shape):
    with pytest.raises(ValueError, match="T >= 2"):
        visual_factors(np.zeros(shape, np.uint8))
