"""Configuration of a view of a video: number of frames, their sampling and their stored size."""

from typing import Literal, Self

from pydantic import Field, model_validator

from evclip_ray.config import Config

Decoder = Literal["pyav", "torchcodec"]


class ViewConfig(Config):
    """Sampling and stored size of the frames of one view.

    >>> ViewConfig(num_frames=8, height=256, width=340).shape
    (8, 256, 340, 3)

    Attributes:
        num_frames: T, frames per view.
        sampling: "segments" takes one frame from each of T equal parts of the video. "window" takes every
            (`window_frames` // T)-th of `window_frames` consecutive frames, as EV-CLIP's released code does
            (arXiv 2604.22595: 32 frames, T = 8). `sampling.frame_indices` has an example of each.
        window_frames: Length of the window in frames; at least T.
        height: Stored height in pixels.
        width: Stored width in pixels.
        fit: "crop" keeps the aspect ratio, resizes until the frame is covered and crops the centre.
            "stretch" ignores the aspect ratio, as EV-CLIP's released code does (to 256 x 340).
        decoder: "torchcodec" is faster if most frames of a video are needed, "pyav" if few are.
    """

    num_frames: int = Field(default=8, ge=1)
    sampling: Literal["segments", "window"] = "segments"
    window_frames: int = Field(default=32, ge=1)
    height: int = Field(default=256, ge=16)
    width: int = Field(default=256, ge=16)
    fit: Literal["crop", "stretch"] = "crop"
    decoder: Decoder = "pyav"

    @model_validator(mode="after")
    def _window_is_long_enough(self) -> Self:
        if self.sampling == "window" and self.window_frames < self.num_frames:
            raise ValueError(
                f"window_frames must be at least num_frames, got {self.window_frames} < {self.num_frames};"
                " raise window_frames or lower num_frames"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one stored view."""
        return self.num_frames, self.height, self.width, 3
