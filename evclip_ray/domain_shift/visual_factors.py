"""What a video looks like, in six numbers: light, contrast, colour, sharpness, camera and scene motion.

Contrast, saturation, sharpness and motion are ratios, so that the same scene under less light has the same
ones, and a set that is merely darker is not also called blurred and grey. These measures are ours; the
ones that published studies of domain shift used are not public.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from evclip_ray.domain_shift.global_motion import motion_between

Array = NDArray[np.float64]

VISUAL_FACTORS: dict[str, str] = {
    "luminance": "mean luma, 0 black to 1 white",
    "contrast": "spread of luma over its mean, a ratio",
    "saturation": "chroma over brightness, 0 grey to 1 pure",
    "sharpness": "Laplacian's share of the luma's variance, log10",
    "camera_motion": "motion of the camera, % of the width a step",
    "scene_motion": "motion in the scene, % of the width a step",
}
"""Factor -> what its numbers are; a step is from one frame of the view to the next."""

_REC_709 = (0.2126, 0.7152, 0.0722)
# The variance of one level of 8-bit colour: a blank frame has a sharpness too, the lowest that can be told.
_LEVEL = 1 / 255
# Per cent of the width: noise is measured as motion of this size and less. By ranks, a still set that is
# noisier than another would be a set that moves more.
_RESOLUTION = 0.05


def visual_factors(frames: NDArray[np.uint8]) -> dict[str, float]:
    """The factors of one view, (T, H, W, 3) uint8, each the mean over frames or steps.

    Motion is told to 0.05 % of the width.

    Raises:
        ValueError: fewer than two frames, or another shape or type.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(
            f"visual factors need frames (T, H, W, 3) uint8 with T >= 2, got {frames.shape} {frames.dtype};"
            " set view.num_frames=8"
        )
    luma = luminance_of(frames)
    steps = [motion_between(*pair) for pair in itertools.pairwise(luma)]
    camera, scene = np.rint(np.mean(steps, axis=0) / _RESOLUTION) * _RESOLUTION
    return {
        "luminance": float(luma.mean()),
        "contrast": float(np.mean(luma.std((1, 2)) / (luma.mean((1, 2)) + _LEVEL))),
        "saturation": _saturation(frames),
        "sharpness": float(np.mean([_sharpness(image) for image in luma])),
        "camera_motion": float(camera),
        "scene_motion": float(scene),
    }


def luminance_of(frames: NDArray[np.uint8]) -> Array:
    """(..., 3) uint8 RGB -> (...) luma in [0, 1]: the weights of ITU-R BT.709, on the colours as stored."""
    luma: Array = frames @ (np.array(_REC_709) / 255)
    return luma


def _saturation(frames: NDArray[np.uint8]) -> float:
    """sum(max - min) / sum(max) over pixels: HSV's saturation with each pixel weighing as it is bright.

    Unweighted, the colour of noise in the dark would make night the most colourful of all.
    """
    brightest, dullest = frames.max(-1), frames.min(-1)
    return float((brightest - dullest).sum() / max(int(brightest.sum()), 1))


def _sharpness(luma: Array) -> float:
    """log10 of the variance of the 4-neighbour Laplacian over that of (H, W) `luma` itself."""
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    laplacian = sides - 4 * luma[1:-1, 1:-1]
    return float(np.log10((laplacian.var() + _LEVEL**2) / (luma.var() + _LEVEL**2)))
