"""Pictures of a run for TensorBoard: masks and confusion matrices."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

# Viridis at eight positions: its lightness increases steadily, also for colour-blind readers.
_ANCHORS = np.array(
    [(68, 1, 84), (70, 50, 127), (54, 92, 141), (39, 127, 142), (31, 161, 135), (74, 194, 109),
     (159, 218, 58), (253, 231, 37)], np.float64,
)  # fmt: skip
# Mean colour of CLIP's training images, to the nearest grey.
_GREY = (122.0, 122.0, 122.0)
_LONGEST_NAME = 22
_MAX_NAMES = 40


def coloured(values: NDArray[np.floating]) -> Pixels:
    """Colour (H, W) values in [0, 1] from dark blue to yellow: (H, W, 3) uint8."""
    position = np.clip(np.nan_to_num(values), 0, 1) * (len(_ANCHORS) - 1)
    # The last interval is closed: the value 1 has no anchor after it.
    low = np.minimum(position.astype(int), len(_ANCHORS) - 2)
    share = (position - low)[..., None]
    colours: Pixels = np.rint(_ANCHORS[low] * (1 - share) + _ANCHORS[low + 1] * share).astype(np.uint8)
    return colours


def masked(
    frames: Pixels, mask: NDArray[np.floating], mean_colour: Sequence[float] | NDArray[np.floating]
) -> Pixels:
    """Apply a mask to frames as the method does: masked pixels fade to the mean colour.

    The method multiplies normalised pixels, whose 0 is the mean colour of the network's input.

    Args:
        frames: (..., H, W, 3) uint8.
        mask: (H, W) in [0, 1], the same for all frames.
        mean_colour: Mean of each colour, in [0, 255].
    """
    mean = np.asarray(mean_colour, np.float32)
    faded = mean + (frames - mean) * mask[..., None].astype(np.float32)
    return np.clip(np.rint(faded), 0, 255).astype(np.uint8)


def mask_strip(frame: Pixels, mask: NDArray[np.floating], *, side: int = 112) -> Pixels:
    """Draw a frame, its mask (0 dark blue, 1 yellow) and the masked frame in a row: (side, 3 side, 3).

    Args:
        frame: (H, W, 3) uint8.
        mask: (H, W) in [0, 1].
        side: Height and width of each panel in pixels.
    """
    panels = [frame, coloured(mask), masked(frame, mask, _GREY)]
    resized = [np.asarray(Image.fromarray(panel).resize((side, side))) for panel in panels]
    return np.concatenate(resized, axis=1)


def confusion_picture(confusion: NDArray[np.integer], classes: Sequence[str]) -> Pixels:
    """Draw (N, N) counts, true by predicted, as shares of each row; with class names if they fit."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    # Cells shrink with the number of classes, so that the picture stays near 560 pixels.
    cell = max(2, min(28, 560 // len(classes)))
    matrix = coloured(shares).repeat(cell, 0).repeat(cell, 1)
    if len(classes) > _MAX_NAMES:
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
    for index, name in enumerate(names):
        middle = index * cell + cell / 2
        draw.text((margin - 5, middle), name, "black", font, anchor="rm")
        upright.text((margin - 5, middle), name, "black", font, anchor="rm")
    # Pillow draws horizontal text only: the names of the columns are drawn in rows and turned.
    picture.paste(below.rotate(90, expand=True), (margin, side))
    return np.asarray(picture)


def jpeg(picture: Pixels) -> bytes:
    """Encode a picture as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=85)
    return stream.getvalue()
