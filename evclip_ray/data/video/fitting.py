"""Resizing of decoded frames to upright RGB of one size.

Resizing and the conversion to RGB are one step of swscale. It is bicubic, and its filter widens when
shrinking, so it is antialiased. Exact rounding and bit-exact code paths give the same bytes on every CPU.
"""

from fractions import Fraction
from typing import cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from evclip_ray.data.video.orientation import orientation_of
from evclip_ray.data.video.view import ViewConfig

Frames = NDArray[np.uint8]

_BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class Fitting:
    """Conversion of the decoded frames of one video to upright (H, W, 3) uint8 RGB of one size.

    The resizer is kept between frames, because its set-up costs more than one small frame.

    Args:
        view: Size of the stored frames.
        pixel_aspect: Width of a coded pixel by its height; without effect unless `view.pixels` is "display".
    """

    def __init__(self, view: ViewConfig, *, pixel_aspect: Fraction | int = 1) -> None:
        self.view, self.size = view, view.fixed_size
        self._stretch = float(pixel_aspect) if view.pixels == "display" else 1
        self._resizer = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Frames:
        """Return the frame upright, (H, W, 3); the first frame sets the size."""
        orientation = orientation_of(frame)
        shown_width = frame.width * self._stretch
        upright: tuple[float, float] = (frame.height, shown_width)
        if orientation.is_sideways:
            upright = (shown_width, frame.height)
        # The first frame sets the size, because the resolution may change within a video.
        self.size = self.size or self.view.size_of(*upright)
        height, width = self._resized(*upright, self.size)
        # The frame is resized as it is coded and turned afterwards, when it has fewer pixels.
        coded_height, coded_width = (width, height) if orientation.is_sideways else (height, width)
        rgb = self._resizer.reformat(
            frame, width=coded_width, height=coded_height, format="rgb24", interpolation=_BICUBIC, threads=1
        )
        # The orientation and the crop are views. The pixels are copied once, at the end.
        image = orientation.apply(cast(Frames, rgb.to_ndarray()))
        top, left = (height - self.size[0]) // 2, (width - self.size[1]) // 2
        return np.ascontiguousarray(image[top : top + self.size[0], left : left + self.size[1]])

    def _resized(self, height: float, width: float, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size before the crop: except for "stretch", the smallest of one aspect that covers."""
        if self.view.fit == "stretch":
            return size
        scale = max(size[0] / height, size[1] / width)
        # Rounding can give one pixel less than the crop needs.
        return max(round(height * scale), size[0]), max(round(width * scale), size[1])
