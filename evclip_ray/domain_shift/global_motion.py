"""Camera and scene motion between two frames, from corners tracked by OpenCV.

Corners (Shi and Tomasi, 1994) are tracked by pyramidal optical flow (Lucas and Kanade, 1981):

    q = A p + r

where p is a corner in the earlier frame and q its position in the later frame,
A is a rotation, a scale and a shift, fitted to all corners by RANSAC: the motion of the camera,
r is the rest of the motion of that corner: the motion in the scene.

This holds while most corners belong to the background. A corner whose track back from q does not end at p is
left out, so objects that turn or leave the frame are not measured.
"""

import numpy as np
from numpy.typing import NDArray

from evclip_ray.optional import require

Array = NDArray[np.float64]

_MAX_CORNERS = 400
# Relative to the best corner of the frame.
_MIN_QUALITY = 0.01
_MIN_DISTANCE = 3
# Smaller eigenvalue of the structure tensor, for luma in [0, 1]. Noise of 1 % of the range reaches half of it
# after the blur. Without the limit, a blank wall would have corners and move with its noise.
_MIN_EIGENVALUE = 4e-5
_EIGENVALUE_BLOCK = 7
_WINDOW = (15, 15)
# Pixels: how far a track back may end from its corner, and how far an inlier may be from the fit.
_TOLERANCE = 0.5


def motion_between(before: Array, after: Array) -> tuple[float, float]:
    """Return camera and scene motion between two frames, in per cent of the frame's width.

    Args:
        before: (H, W) luma of the earlier frame, in [0, 1].
        after: (H, W) luma of the later frame.

    Returns:
        The root mean square over the frame of the camera's displacement, and the mean over the corners of the
        rest of their motion. Both are 0 for frames without texture.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    height, width = before.shape
    corners, tracked = _tracks(before, after)
    camera = None
    # Two corners determine rotation, scale and shift exactly, so the rest of the motion would always be 0.
    if len(corners) >= 3:
        cv2 = require("cv2", extra="shift", purpose="camera motion")
        # RANSAC fits the largest group of corners that agree, so that a moving object does not count as
        # camera motion.
        camera, _ = cv2.estimateAffinePartial2D(corners, tracked, ransacReprojThreshold=_TOLERANCE)
    if camera is None:
        return 0.0, 0.0
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    displacement = _moved(pixels, camera) - pixels
    rest = np.hypot(*(tracked - _moved(corners, camera)).T)
    rms = np.sqrt((displacement**2).sum(1).mean())
    return 100 * float(rms) / width, 100 * float(rest.mean()) / width


def _tracks(before: Array, after: Array) -> tuple[Array, Array]:
    """Return the corners (K, 2) of the earlier frame as x, y, and their positions in the later one."""
    cv2 = require("cv2", extra="shift", purpose="camera motion")
    # The blur keeps the noise of single pixels from looking like corners.
    blurred = cv2.GaussianBlur(before.astype(np.float32), (5, 5), 0)
    textured = cv2.cornerMinEigenVal(blurred, _EIGENVALUE_BLOCK) > _MIN_EIGENVALUE
    # The optical flow takes 8-bit images only.
    images = [np.rint(np.clip(luma, 0, 1) * 255).astype(np.uint8) for luma in (before, after)]
    corners = cv2.goodFeaturesToTrack(
        images[0], _MAX_CORNERS, _MIN_QUALITY, _MIN_DISTANCE, mask=textured.astype(np.uint8)
    )
    if corners is None:
        return np.empty((0, 2)), np.empty((0, 2))
    tracked, forward, _ = cv2.calcOpticalFlowPyrLK(*images, corners, None, winSize=_WINDOW)
    # A corner that is hidden or leaves the frame is tracked to some similar texture, which rarely leads back
    # to it.
    returned, backward, _ = cv2.calcOpticalFlowPyrLK(*images[::-1], tracked, None, winSize=_WINDOW)
    error = np.abs(returned - corners).reshape(-1, 2).max(1)
    usable = (forward.ravel() == 1) & (backward.ravel() == 1) & (error < _TOLERANCE)
    return corners.reshape(-1, 2)[usable].astype(np.float64), tracked.reshape(-1, 2)[usable].astype(
        np.float64
    )


def _moved(points: Array, affine: Array) -> Array:
    """Return (K, 2) points under a (2, 3) affine map."""
    moved: Array = points @ affine[:, :2].T + affine[:, 2]
    return moved
