"""What a view of a video is: how many frames, which ones, and the size they are stored at."""

from typing import Literal, Self

from pydantic import Field, model_validator

from evclip_ray.config import Config

Decoder = Literal["pyav", "torchcodec"]


class ViewConfig(Config):
    """The frames of one view (T = `num_frames`) and their stored size in pixels.

    `sampling`: "segments" takes one frame from each of T equal parts of the video; "window" takes
    every (`window_frames` // T)-th frame of `window_frames` consecutive ones, as EV-CLIP's released
    code does (arXiv 2604.22595: 32 frames, T = 8).
    `fit`: "crop" resizes the short side with the aspect kept and crops the centre to
    `height` x `width`; "stretch" ignores the aspect, as EV-CLIP's released code does (to 256 x 340).
    `decoder`: torchcodec takes less time where most frames of a video are wanted, and more where few are.
    """

    num_frames: int = Field(default=8, ge=1)
    sampling: Literal["segments", "window"] = "segments"
    window_frames: int = Field(default=32, ge=1)
    height: int = Field(default=256, ge=16)
    width: int = Field(default=256, ge=16)
    fit: Literal["crop", "stretch"] = "crop"
    decoder: Decoder = "pyav"

    @model_validator(mode="after")
    def _window_holds_the_frames(self) -> Self:
        if self.sampling == "window" and self.window_frames < self.num_frames:
            raise ValueError(
                f"window_frames must be at least num_frames, got {self.window_frames} < {self.num_frames};"
                " widen the window or take fewer frames"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one stored view."""
        return self.num_frames, self.height, self.width, 3
