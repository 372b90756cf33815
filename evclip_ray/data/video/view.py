"""Configuration of a view of a video: number of frames, their sampling and their stored size."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from evclip_ray.config import Config

Decoder = Literal["pyav", "torchcodec"]
Fit = Literal["short_side", "crop", "stretch"]

MAX_ASPECT = 3
"""Longest stored picture, long side to short side. Of a longer picture the middle is stored."""

_DEFAULT_SIDE = 256
_SIZES = ("short_side", "height", "width", "fit")
_TYPICAL_ASPECT = 16 / 9


def describe_pixels(videos: Sequence[str]) -> str:
    """Return a line about videos whose pixels are not square, each given as "PATH, ASPECT"."""
    have = "video has" if len(videos) == 1 else "videos have"
    return (
        f"{len(videos)} {have} pixels that are not square (the first: {videos[0]}). view.pixels=stored, the "
        "default, takes them as square; view.pixels=display gives them the shape that players show"
    )


class ViewConfig(Config):
    """Sampling and stored size of the frames of one view.

    >>> ViewConfig(num_frames=8).size_of(1080, 1920)
    (256, 455)
    >>> ViewConfig(height=256, width=340, fit="stretch").size_of(1080, 1920)
    (256, 340)

    Attributes:
        num_frames: T, frames per view.
        sampling: "segments" takes one frame from each of T equal parts of the video. "window" takes every
            (`window_frames` // T)-th of `window_frames` consecutive frames, as EV-CLIP's released code does
            (arXiv 2604.22595: 32 frames, T = 8). `sampling.frame_indices` has an example of each.
        window_frames: Length of the window in frames; at least T.
        short_side: Stored short side in pixels; the long side follows from the aspect ratio. An experiment's
            default is 8/7 of its backbone's input: 256 for 224, 384 for 336. None with a fixed size.
        height: Stored height in pixels of a fixed size, 256 by default. None with `short_side`.
        width: Stored width in pixels of a fixed size, 256 by default. None with `short_side`.
        fit: "short_side" keeps the whole picture and its aspect ratio up to `MAX_ASPECT`. "crop" keeps the
            aspect ratio, resizes until `height` x `width` is covered and stores the centre. "stretch"
            ignores the aspect ratio, as EV-CLIP's released code does (to 256 x 340). The default is "crop"
            if `height` or `width` is given, otherwise "short_side".
        pixels: "display" gives pixels that are not square the shape that players show: a PAL video of
            720 x 576 pixels becomes 1024 x 576 before it is resized. "stored" takes every pixel as square, as
            decord, torchcodec and OpenCV do. Many copies of Kinetics have such pixels (340 x 256, shown as
            16:9), and published numbers were measured with "stored".
        decoder: "torchcodec" is faster if most frames of a video are needed, "pyav" if few are.
    """

    num_frames: int = Field(default=8, ge=1)
    sampling: Literal["segments", "window"] = "segments"
    window_frames: int = Field(default=32, ge=1)
    short_side: int | None = Field(default=None, ge=16)
    height: int | None = Field(default=None, ge=16)
    width: int | None = Field(default=None, ge=16)
    fit: Fit = "short_side"
    # Left out of dumps at the default, so that keys of caches are those of versions without the setting.
    pixels: Literal["stored", "display"] = Field(default="stored", exclude_if=lambda value: value == "stored")
    decoder: Decoder = "pyav"

    @model_validator(mode="before")
    @classmethod
    def _resolve_size(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        settings = {name: value for name, value in data.items() if name not in _SIZES or value is not None}
        fixed = [name for name in ("height", "width") if name in settings]
        fit = settings.setdefault("fit", "crop" if fixed else "short_side")
        if fit == "short_side":
            if fixed:
                raise ValueError(
                    f"view.fit=short_side keeps the aspect of a video, but view.{fixed[0]}="
                    f"{settings[fixed[0]]} sets a fixed size. Set view.short_side and "
                    "view.height=null view.width=null, or choose view.fit=crop"
                )
            settings.setdefault("short_side", _DEFAULT_SIDE)
        elif "short_side" in settings:
            raise ValueError(
                f"view.short_side={settings['short_side']} keeps the aspect of a video, but the frames get a "
                f"fixed size (view.fit={fit}). Set view.height and view.width with view.short_side=null, or "
                "view.fit=short_side with view.height=null view.width=null"
            )
        else:
            settings.setdefault("height", _DEFAULT_SIDE)
            settings.setdefault("width", _DEFAULT_SIDE)
        return settings

    @model_validator(mode="after")
    def _window_is_long_enough(self) -> Self:
        if self.sampling == "window" and self.window_frames < self.num_frames:
            raise ValueError(
                f"window_frames must be at least num_frames, got {self.window_frames} < {self.num_frames};"
                " raise window_frames or lower num_frames"
            )
        return self

    # Names of cache folders are digests of the settings of a fixed size, which had no `short_side` before.
    @model_serializer(mode="wrap")
    def _only_used_sizes(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(H, W) of every video's frames; None if each video keeps its aspect ratio."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    @property
    def shortest(self) -> int:
        """Short side of the stored frames in pixels."""
        return self.short_side or min(self.fixed_size or (0,))

    @property
    def num_bytes(self) -> int:
        """Size of one stored view. Where videos keep their aspect ratio, it is that of a 16:9 video."""
        height, width = self.typical_size
        return self.num_frames * height * width * 3

    @property
    def typical_size(self) -> tuple[int, int]:
        """(H, W) of stored frames; of a 16:9 video where videos keep their aspect ratio."""
        return self.fixed_size or (self.shortest, round(self.shortest * _TYPICAL_ASPECT))

    def size_of(self, height: float, width: float) -> tuple[int, int]:
        """Return the stored (H, W) of a video.

        Args:
            height: Height of its upright picture in pixels, or in units of its pixels' width or height.
            width: Width of its upright picture in the same unit.
        """
        if self.fixed_size:
            return self.fixed_size
        long_side = round(max(height, width) * self.shortest / min(height, width))
        long_side = min(long_side, MAX_ASPECT * self.shortest)
        return (self.shortest, long_side) if width >= height else (long_side, self.shortest)

    def stored_share(self, height: int, width: int) -> float:
        """Return the share of a video's picture that the stored frames show."""
        if self.fit == "stretch":
            return 1.0
        stored_height, stored_width = self.size_of(height, width)
        ratio = (stored_width / stored_height) / (width / height)
        # Rounding the long side changes the ratio by less than one pixel in `shortest`.
        return min(ratio, 1 / ratio) if abs(ratio - 1) * self.shortest > 1 else 1.0
