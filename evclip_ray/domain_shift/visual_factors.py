"""Visual factors of a video: luminance, contrast, saturation, sharpness, camera motion and scene motion.

All but luminance are ratios, so that the same scene has the same factors in less light. Otherwise a darker
set would also count as blurred and grey. The measures are our choice, because those of published studies on
domain shift are not public.
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
"""Factor -> its definition; a step is from one frame of the view to the next."""

_REC_709 = (0.2126, 0.7152, 0.0722)
# One level of 8-bit colour. It keeps the ratios of a blank frame finite.
_LEVEL = 1 / 255
# Per cent of the width. Noise is measured as motion up to this size. Effect sizes compare ranks, so without
# rounding, a noisy still set would count as one with more motion.
_RESOLUTION = 0.05


def visual_factors(frames: NDArray[np.uint8]) -> dict[str, float]:
    """Return the factors of one view, each the mean over frames or steps.

    Args:
        frames: (T, H, W, 3) uint8 RGB with T >= 2.

    Raises:
        ValueError: `frames` has another shape or type.
        ConfigError: OpenCV is not installed.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(
            f"visual factors need frames (T, H, W, 3) uint8 with T >= 2, got {frames.shape} {frames.dtype};"
            " set view.num_frames=8"
        )
    luma = luminance_of(frames)
    steps = [motion_between(*pair) for pair in itertools.pairwise(luma)]
    # Differences below the resolution become ties, which count as no effect.
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
    """Return the (...) luma in [0, 1] of (..., 3) uint8 RGB, with the weights of ITU-R BT.709."""
    luma: Array = frames @ (np.array(_REC_709) / 255)
    return luma


def _saturation(frames: NDArray[np.uint8]) -> float:
    """Return sum(max - min) / sum(max) over pixels: the saturation of HSV, weighted by brightness.

    Without the weights, colour noise in dark pixels would give night videos the highest saturation.
    """
    brightest, dullest = frames.max(-1), frames.min(-1)
    return float((brightest - dullest).sum() / max(int(brightest.sum()), 1))


def _sharpness(luma: Array) -> float:
    """Return log10 of the variance of the 4-neighbour Laplacian over the variance of (H, W) `luma`."""
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    laplacian = sides - 4 * luma[1:-1, 1:-1]
    return float(np.log10((laplacian.var() + _LEVEL**2) / (luma.var() + _LEVEL**2)))
