"""Orientation of recorded frames: phones store them as the sensor reads them and add a display matrix."""

import math
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray


class Orientation(NamedTuple):
    """What makes a coded frame upright: a rotation, then an exchange of left and right.

    Attributes:
        turns: Counterclockwise quarter turns, 0 to 3.
        mirrored: Whether left and right are exchanged after the rotation, as front cameras need it.
    """

    turns: int
    mirrored: bool

    @property
    def is_sideways(self) -> bool:
        """Whether width and height are exchanged."""
        return self.turns % 2 == 1

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an (H, W, 3) picture upright, as a view."""
        rotated = np.rot90(image, self.turns)
        return rotated[:, ::-1] if self.mirrored else rotated


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation of a frame by its display matrix.

    FFmpeg applies the same of the 8 orientations. Other angles are rounded to quarter turns.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    return Orientation(0, False) if side_data is None else _orientation(np.frombuffer(side_data, np.int32))


def _orientation(matrix: NDArray[np.int32]) -> Orientation:
    """Return the orientation of a display matrix.

    The matrix maps a pixel (x, y), y downwards, to (a x + c y, b x + d y).

    >>> _orientation(np.array([0, 1, 0, -1, 0, 0, 0, 0, 0]))  # clockwise by 90 degrees
    Orientation(turns=3, mirrored=False)
    >>> _orientation(np.array([-1, 0, 0, 0, 1, 0, 0, 0, 0]))  # left and right exchanged
    Orientation(turns=0, mirrored=True)

    Args:
        matrix: (9,) elements a, b, u, c, d, v, x, y, w.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    mirrored = a * d - b * c < 0
    # The exchange of left and right comes last, so the rotation before it is found by undoing it.
    clockwise = math.atan2(b, -a if mirrored else a)
    return Orientation(-round(clockwise / (math.pi / 2)) % 4, mirrored)
