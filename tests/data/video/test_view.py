import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.video.view import ViewConfig


def test_shape_has_t_frames_of_the_stored_size():
    assert ViewConfig(num_frames=4, height=32, width=48).shape == (4, 32, 48, 3)


@pytest.mark.parametrize(
    "wrong", [{"num_frames": 0}, {"height": 15}, {"fit": "pad"}, {"sampling": "window", "window_frames": 7}]
)
def test_invalid_view_is_refused_with_the_setting(wrong):
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        ViewConfig.load(wrong)
