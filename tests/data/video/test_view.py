import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.video.view import ViewConfig


@pytest.mark.parametrize(
    ("picture", "stored"),
    [
        ((240, 320), (256, 341)),
        ((1080, 1920), (256, 455)),
        ((1920, 1080), (455, 256)),
        ((96, 96), (256, 256)),
        ((100, 1000), (256, 768)),
    ],
)
def test_default_view_keeps_the_aspect(picture, stored):
    assert ViewConfig().size_of(*picture) == stored


def test_given_height_or_width_is_a_fixed_size():
    assert ViewConfig(height=72, width=72).size_of(480, 640) == (72, 72)
    assert ViewConfig(height=32).fixed_size == (32, 256)
    assert ViewConfig(fit="stretch", width=340).fixed_size == (256, 340)


def test_fixed_size_is_recorded_as_before_short_side():
    recorded = {
        "num_frames": 8,
        "sampling": "segments",
        "window_frames": 32,
        "height": 256,
        "width": 256,
        "fit": "crop",
        "decoder": "pyav",
    }
    assert ViewConfig(fit="crop").model_dump() == recorded
    assert ViewConfig.load(recorded) == ViewConfig(height=256, width=256)


@pytest.mark.parametrize("view", [ViewConfig(short_side=384), ViewConfig(height=256, width=340)])
def test_recorded_view_loads_as_itself(view):
    assert ViewConfig.load(view.model_dump(mode="json")) == view


def test_stored_share_is_what_the_frames_show():
    assert ViewConfig().stored_share(1080, 1920) == 1
    assert ViewConfig().stored_share(100, 600) == pytest.approx(0.5)
    assert ViewConfig(fit="crop").stored_share(480, 640) == pytest.approx(0.75)
    assert ViewConfig(fit="crop").stored_share(640, 360) == pytest.approx(9 / 16)
    assert ViewConfig(fit="stretch", width=340).stored_share(480, 640) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_frames": 0},
        {"height": 15},
        {"short_side": 15},
        {"fit": "pad"},
        {"sampling": "window", "window_frames": 7},
        {"width": 256, "short_side": 256},
        {"height": 256, "fit": "short_side"},
        {"fit": "stretch", "short_side": 256},
    ],
)
def test_invalid_view_is_refused_with_the_setting(wrong):
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        ViewConfig.load(wrong)
