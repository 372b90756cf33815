"""Pictures of a run for TensorBoard: where a mask looks, and which classes are taken for which."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

# Viridis at eight places: it grows in lightness alone, and is read by colour-blind eyes.
_ANCHORS = np.array(
    [(68, 1, 84), (70, 50, 127), (54, 92, 141), (39, 127, 142), (31, 161, 135), (74, 194, 109),
     (159, 218, 58), (253, 231, 37)], np.float64,
)  # fmt: skip
_LONGEST_NAME = 22
_MOST_NAMES = 40


def coloured(values: NDArray[np.floating]) -> Pixels:
    """(H, W) in [0, 1] -> (H, W, 3) uint8, dark blue to yellow."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(_ANCHORS) - 1)
    low = np.minimum(place.astype(int), len(_ANCHORS) - 2)
    share = (place - low)[..., None]
    colours: Pixels = np.rint(_ANCHORS[low] * (1 - share) + _ANCHORS[low + 1] * share).astype(np.uint8)
    return colours


def mask_strip(frame: Pixels, mask: NDArray[np.floating], *, side: int = 112) -> Pixels:
    """One video: a frame, its mask (0 dark blue, 1 yellow), the frame times the mask; (side, 3 side, 3).

    `frame`: (H, W, 3) uint8; `mask`: (H, W) in [0, 1]. The method multiplies normalised pixels, whose 0 is
    the mean colour: what a mask hides fades to grey here too.
    """
    grey = np.full(3, 122.0)
    masked = grey + (frame - grey) * mask[..., None]
    panels = [frame, coloured(mask), np.rint(masked).astype(np.uint8)]
    resized = [np.asarray(Image.fromarray(panel).resize((side, side))) for panel in panels]
    return np.concatenate(resized, axis=1)


def confusion_picture(confusion: NDArray[np.integer], classes: Sequence[str]) -> Pixels:
    """(N, N) counts, true by predicted -> a picture of the shares of each row, with names where they fit."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    cell = max(2, min(28, 560 // len(classes)))
    matrix = coloured(shares).repeat(cell, 0).repeat(cell, 1)
    if len(classes) > _MOST_NAMES:
        return matrix
    return _with_names(matrix, classes, cell)


def _with_names(matrix: Pixels, classes: Sequence[str], cell: int) -> Pixels:
    font = ImageFont.load_default(max(8, min(13, cell)))
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in classes]
    margin = 10 + int(max(font.getlength(name) for name in names))
    side = matrix.shape[0]
    picture = Image.new("RGB", (margin + side, margin + side), "white")
    picture.paste(Image.fromarray(matrix), (margin, 0))
    draw = ImageDraw.Draw(picture)
    below = Image.new("RGB", (margin, side), "white")
    upright = ImageDraw.Draw(below)
    for place, name in enumerate(names):
        middle = place * cell + cell / 2
        draw.text((margin - 5, middle), name, "black", font, anchor="rm")
        upright.text((margin - 5, middle), name, "black", font, anchor="rm")
    picture.paste(below.rotate(90, expand=True), (margin, side))
    return np.asarray(picture)


def jpeg(picture: Pixels, *, quality: int = 85) -> bytes:
    """The picture as a small file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
