"""Contact sheet: one row per video with frames, the mask on the middle frame, and the best classes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from evclip_ray.artifacts import replacing
from evclip_ray.data.transforms import crop_box
from evclip_ray.deploy.drawing import Font, Pixels, blend, fitted, heat_map
from evclip_ray.deploy.predictions import ClassScore, Prediction, WindowPrediction

MAX_ROWS = 100
"""Rows of a sheet. More would make a picture that few programs open."""

NUM_FRAMES = 4
_SIDE, _GAP, _TEXT_WIDTH, _NUM_CLASSES = 128, 6, 320, 3
_INK, _GREY, _BAR, _TRACK = (20, 20, 20), (110, 110, 110), (54, 92, 141), (225, 225, 225)


@dataclasses.dataclass(frozen=True, eq=False)
class SheetRow:
    """Row of a sheet.

    Attributes:
        title: Name of the video.
        note: Time of the frames; empty for the whole video.
        scores: Best classes, best first.
        is_unknown: Whether the video is below the rejection threshold.
        pictures: The square of each frame that the networks see, `_SIDE` pixels wide.
        masked: The middle frame with the mask as a heat map; None for a method without a mask.
    """

    title: str
    note: str
    scores: tuple[ClassScore, ...]
    is_unknown: bool
    pictures: tuple[Pixels, ...]
    masked: Pixels | None


def shown_window(prediction: Prediction) -> WindowPrediction:
    """Return the window that a sheet shows: the one in which the video's best class is most probable."""
    best = prediction.best.name
    return max(
        prediction.windows,
        key=lambda window: next((s.probability for s in window.scores if s.name == best), 0.0),
    )


def sheet_row(
    prediction: Prediction, frames: NDArray[np.uint8], mask: NDArray[np.float32] | None
) -> SheetRow:
    """Return the row of a video.

    Args:
        prediction: Prediction of the video.
        frames: (T, H, W, 3) view of `shown_window`.
        mask: (S, S) mask of this view; None for a method without a mask.
    """
    window = shown_window(prediction)
    chosen = np.unique(np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int))
    masked = None
    if mask is not None:
        masked = blend(_square(frames[len(frames) // 2]), heat_map(mask, _SIDE, _SIDE))
    note = ""
    if len(prediction.windows) > 1:
        times = f"{window.start_seconds:.1f} to {window.end_seconds:.1f} s"
        note = f"frames: {times} of {prediction.duration_seconds:.1f} s"
    return SheetRow(
        title=prediction.video,
        note=note,
        scores=prediction.scores[:_NUM_CLASSES],
        is_unknown=prediction.overall.is_unknown,
        pictures=tuple(_square(frames[index]) for index in chosen),
        masked=masked,
    )


def write_sheet(rows: Sequence[SheetRow], target: Path) -> None:
    """Write a sheet as a PNG file, atomically.

    Args:
        rows: At least one row.
        target: File of the sheet.

    Raises:
        OSError: The file cannot be written.
    """
    columns = NUM_FRAMES + any(row.masked is not None for row in rows)
    text_left = _GAP + columns * (_SIDE + _GAP) + _GAP
    size = (text_left + _TEXT_WIDTH + _GAP, _GAP + len(rows) * (_SIDE + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = _GAP + number * (_SIDE + _GAP)
        panels = dict(enumerate(row.pictures))
        if row.masked is not None:
            panels[NUM_FRAMES] = row.masked
        for column, panel in panels.items():
            sheet.paste(Image.fromarray(panel), (_GAP + column * (_SIDE + _GAP), top))
        _write_text(draw, row, text_left, top)
    with replacing(target) as temporary:
        sheet.save(temporary, format="PNG")


def _square(frame: Pixels) -> Pixels:
    """Return the square of a frame that the networks see."""
    top, left, side = crop_box(*frame.shape[:2])
    method = cv2.INTER_AREA if side > _SIDE else cv2.INTER_LINEAR
    part = frame[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (_SIDE, _SIDE), interpolation=method), np.uint8)


def _write_text(draw: ImageDraw.ImageDraw, row: SheetRow, left: int, top: int) -> None:
    # The end of a path tells videos apart, so a long one loses its beginning.
    title, font = _end_of(row.title)
    draw.text((left, top), title, _GREY, font)
    note, font = fitted(row.note, size=12, width=_TEXT_WIDTH)
    draw.text((left, top + 16), note if row.note else "", _GREY, font)
    top += 36
    if row.is_unknown:
        text, font = fitted("unknown; best classes:", size=12, width=_TEXT_WIDTH)
        draw.text((left, top), text, _INK, font)
        top += 18
    for rank, score in enumerate(row.scores[: _NUM_CLASSES - row.is_unknown]):
        is_best = rank == 0 and not row.is_unknown
        size = 16 if is_best else 13
        share = f"{100 * score.probability:.0f} %"
        number, number_font = fitted(share, size=size, width=_TEXT_WIDTH)
        name, font = fitted(score.name, size=size, width=_TEXT_WIDTH - 60)
        draw.text((left, top), name, _INK if is_best else _GREY, font)
        draw.text((left + _TEXT_WIDTH, top), number, _INK if is_best else _GREY, number_font, anchor="ra")
        bar = top + size + 5
        draw.rectangle((left, bar, left + _TEXT_WIDTH, bar + 3), _TRACK)
        if score.probability > 0:
            draw.rectangle((left, bar, left + round(_TEXT_WIDTH * score.probability), bar + 3), _BAR)
        top = bar + 10


def _end_of(title: str) -> tuple[str, Font]:
    text, font = fitted(title, size=12, width=10_000)
    shortened = text
    while len(shortened) > 1 and font.getlength("…" + shortened) > _TEXT_WIDTH:
        shortened = shortened[1:]
    return (text if shortened == text else "…" + shortened), font
