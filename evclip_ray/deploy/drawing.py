"""Drawing for overlays and sheets: fonts for any script, fitted labels and mask heat maps.

A heat map shows a mask prompt: the weight by which the method multiplies a pixel, from 0, dark blue, to 1,
yellow (viridis). It is blended with the picture in grey, whose own colours would be taken for the map's:

    shown = (1 - a) grey(picture) + a colour(G * mask),    a = 0.5

where G is a Gaussian with a standard deviation of 1/40 of the mask's side. Some masks have a texture of
single pixels, finer than the patches that CLIP reads. It would hide the areas that the mask opens and closes.

Only the square that the networks see has a mask. Pixels outside it are drawn unchanged.
"""

import functools
import logging
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evclip_ray.data.transforms import crop_box
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import printable
from evclip_ray.training.tensorboard.images import coloured

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BLEND = 0.5
"""Weight of the heat map's colours."""

_SMOOTHING = 1 / 40
"""Standard deviation of the smoothing as a share of the mask's side."""

# Pillow's own font has only ASCII letters. The others are those of Linux, macOS and Windows.
_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "NotoSansCJK-Regular.ttc"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "unifont.ttf", "unifont.otf"),
    *(
        "Arial Unicode.ttf",
        "PingFang.ttc",
        "Arial.ttf",
        "arial.ttf",
        "msyh.ttc",
        "msgothic.ttc",
        "malgun.ttf",
    ),
)
# Of a non-character, every font draws the box of a missing letter.
_NO_CHARACTER = "\uffff"
_SMALLEST_FONT = 8


class Square(NamedTuple):
    """Part of a picture that the networks see, in whole pixels of the upright picture."""

    top: int
    left: int
    height: int
    width: int


def seen_square(view: ViewConfig, height: int, width: int, pixel_aspect: Fraction | float = 1) -> Square:
    """Return the part of a picture in the centre crop of the evaluation.

    It is a square of the stored frames. In a picture that was stretched for storage it is a rectangle.

    >>> seen_square(ViewConfig(), 480, 640)
    Square(top=30, left=109, height=420, width=420)

    Args:
        view: Stored size of the frames.
        height: Height of the upright picture in pixels.
        width: Width of the upright picture in pixels.
        pixel_aspect: Width of an upright pixel by its height.
    """
    shown_width = width * (float(pixel_aspect) if view.pixels == "display" else 1)
    rows, columns = view.size_of(height, shown_width)
    top, left, side = crop_box(rows, columns)
    # Pixels of the picture for each stored pixel, vertically and horizontally.
    scale = (height / rows, shown_width / columns)
    if view.fit != "stretch":
        # The smallest picture of the same aspect that covers the stored size, whose middle is stored.
        scale = (min(scale), min(scale))
    above, before = (height / scale[0] - rows) / 2, (shown_width / scale[1] - columns) / 2
    squeeze = width / shown_width
    return Square(
        round((above + top) * scale[0]),
        round((before + left) * scale[1] * squeeze),
        min(round(side * scale[0]), height),
        min(round(side * scale[1] * squeeze), width),
    )


def heat_map(mask: NDArray[np.floating], height: int, width: int) -> Pixels:
    """Return the colours of a mask (S, S) in [0, 1] at a size: (height, width, 3)."""
    deviation = mask.shape[0] * _SMOOTHING
    # Beyond the border the mask goes on with its last values, so that its edge does not fade.
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), deviation, borderType=cv2.BORDER_REPLICATE)
    return coloured(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR))


def blend(picture: Pixels, colours: Pixels) -> Pixels:
    """Return a picture with a heat map of the same size on it, see the formula above."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(grey, 1 - BLEND, colours, BLEND, 0), np.uint8)


def plain(text: str) -> str:
    """Return a text on one line, with control characters escaped."""
    return " ".join(printable(text).split())


def fitted(text: str, end: str = "", *, size: int, width: float) -> tuple[str, Font]:
    """Return a text that fits a width, and its font.

    The font shrinks by a third at most. After that the text is cut and ends with "…".

    Args:
        text: Text that may be cut.
        end: End of the text that is kept, such as a probability.
        size: Largest size of the font in pixels.
        width: Width in pixels.
    """
    text = plain(text)
    for smaller in range(size, max(size * 2 // 3, min(size, _SMALLEST_FONT)) - 1, -1):
        font = font_for(text + end, smaller)
        if font.getlength(text + end) <= width:
            return text + end, font
    # A bisection would not help: names are short, and kerning makes lengths uneven.
    text = text[:200]
    while text and font.getlength(f"{text}…{end}") > width:
        text = text[:-1]
    return f"{text.rstrip()}…{end}", font


def font_for(text: str, size: int) -> Font:
    """Return a font of this machine that has all letters of a text, or Pillow's own with a warning.

    Args:
        text: Text to draw.
        size: Size in pixels.
    """
    name = _font_name("".join(sorted(set(text))))
    return _open_font(name, size) or ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def _font_name(letters: str) -> str | None:
    """Return the first font that has all letters; None for Pillow's own."""
    # The fewest missing letters decide if no font has them all.
    missing = {name: _num_missing(name, letters) for name in (None, *_FONTS) if _open_font(name, 16)}
    best = min(missing, key=lambda name: missing[name])
    if missing[best]:
        _warn_once(best)
    return best


@functools.cache
def _warn_once(name: str | None) -> None:
    log.warning(
        "no font of this machine has all letters of the labels; boxes are drawn in their place. Install one, "
        "such as fonts-noto-cjk on Debian and Ubuntu"
    )


def _num_missing(name: str | None, letters: str) -> int:
    font = _open_font(name, 16)
    assert font is not None
    box = bytes(font.getmask(_NO_CHARACTER))
    return sum(not letter.isspace() and bytes(font.getmask(letter)) == box for letter in letters)


@functools.lru_cache(maxsize=256)
def _open_font(name: str | None, size: int) -> Font | None:
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:  # The machine does not have it.
        return None


def strip(text: str, end: str, *, width: int, size: int) -> Pixels:
    """Draw a label as a strip of white letters on black: (H, width, 3), H even.

    Args:
        text: Text that may be cut.
        end: End of the text that is kept.
        width: Width of the strip in pixels.
        size: Largest size of the font in pixels.
    """
    padding = max(size // 3, 2)
    line, font = fitted(text, end, size=size, width=width - 2 * padding)
    height = (size * 3 // 2 + 1) // 2 * 2
    picture = Image.new("RGB", (width, height), "black")
    ImageDraw.Draw(picture).text((padding, height / 2), line, "white", font, anchor="lm")
    return np.asarray(picture)
