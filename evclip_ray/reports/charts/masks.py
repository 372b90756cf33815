"""Pictures of masks, drawn from the arrays that `evaluation.mask_views` saved."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from evclip_ray.artifacts import file_digest, read_json
from evclip_ray.evaluation.mask_views import ARRAYS, FOLDER, RECORD
from evclip_ray.formatting import counted, short
from evclip_ray.reports.document import Block, Note, Picture, Pictures, Strip
from evclip_ray.training.tensorboard.images import Pixels, coloured, masked

_WEBP_QUALITY = 72
_BLUR = 1 / 48
"""Width of the blur of a heat map as a share of its side. Masks have a fine grid, which hides their shape."""


def mask_pictures(evaluation: Path, name: str, *, split: str) -> list[Block]:
    """Return the saved masks of an evaluation, or a note with the reason why there are none.

    Args:
        evaluation: Folder of the evaluation.
        name: Suffix of the block's name.
        split: Name of the split in the caption.
    """
    path = evaluation / FOLDER / RECORD
    if not path.is_file():
        return []
    record = read_json(path)
    if record.get("reason"):
        return [Note(f"Masks: {record['reason']}")]
    arrays = evaluation / FOLDER / ARRAYS
    mean_colour = np.asarray(record["mean"], np.float32) * 255
    items = [_picture(*saved, mean_colour) for saved in _saved(arrays, record["videos"])]
    caption = (
        "The mask multiplies the normalised pixels of every frame. Where it is 1 (yellow), CLIP sees the "
        "video; where it is 0 (dark), it sees the mean colour. The heat map is smoothed for the eye. The "
        "videos with the largest change come first, followed by a random sample "
        f"(seed {record['seed']}) of the {split} split."
    )
    source = f"{evaluation.name}/{FOLDER}/{ARRAYS} ({file_digest(arrays)})"
    return [Pictures(f"masks_{name}", "Masks", items, caption, (source,))]


def mask_strip(evaluation: Path, *, section: str, count: int = 3) -> Strip | None:
    """Return the middle frame, the mask over it and the masked frame of some videos; None without masks.

    Args:
        evaluation: Folder of the evaluation.
        section: Anchor of the section of the evaluation.
        count: Number of videos. They are the first of the section.
    """
    path = evaluation / FOLDER / RECORD
    record = read_json(path) if path.is_file() else {}
    if not record.get("videos"):
        return None
    mean_colour = np.asarray(record["mean"], np.float32) * 255
    items = []
    for video, frames, mask, _ in _saved(evaluation / FOLDER / ARRAYS, record["videos"])[:count]:
        facts = [
            f"true class: {video['label']}",
            f"zero-shot: {video['zero_shot']['label']}",
            f"adapted: {video['adapted']['label']}",
        ]
        items.append(Picture(str(video["path"]), facts, _panels(frames[len(frames) // 2], mask, mean_colour)))
    split = {"val": "validation"}.get(record["split"], record["split"])
    caption = (
        f"Videos of the {split} split whose probability of the true class changed most. The mask is 1 where "
        "it is yellow and 0 where it is dark."
    )
    return Strip(items, caption, section)


def _saved(
    arrays: Path, videos: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], Pixels, npt.NDArray[np.float32], Pixels | None]]:
    """Return the facts, frames, mask and true masks of each video, as `_picture` takes them."""
    with np.load(arrays) as saved:
        frames, masks = saved["frames"], saved["masks"].astype(np.float32)
        all_true = list(saved["true_masks"]) if "true_masks" in saved else [None] * len(frames)
    return [
        # A video without a true mask has zeros in its place.
        (video, views, mask, true if isinstance(video.get("mask_quality"), dict) else None)
        for video, views, mask, true in zip(videos, frames, masks, all_true, strict=True)
    ]


def _picture(
    video: dict[str, Any],
    frames: Pixels,
    mask: npt.NDArray[np.float32],
    true: Pixels | None,
    mean: npt.NDArray[np.float32],
) -> Picture:
    """Draw the middle frame and its mask, and the other frames for a fold.

    Args:
        video: Facts of the video.
        frames: (T, H, W, 3).
        mask: (H, W) in [0, 1].
        true: True masks of the frames, (T, H, W) from 0 to 255, or None.
        mean: Colour where the mask is 0.
    """
    middle = len(frames) // 2
    figure = None if true is None else true[middle]
    more = {f"all {counted(len(frames), 'frame')}": strip(list(frames))}
    if figure is not None:
        more["true mask of the middle frame, outlined in white above"] = figure[..., None].repeat(3, axis=-1)
    facts = [
        f"true class: {video['label']}",
        f"zero-shot: {_prediction(video['zero_shot'])}",
        f"adapted: {_prediction(video['adapted'])}",
    ]
    more_facts = [
        f"{_coverage(video)}, entropy {video['entropy']:.2f} of 1; {video['why']}",
        *_quality(video.get("mask_quality")),
    ]
    more_images = {caption: _data_uri(pixels) for caption, pixels in more.items()}
    return Picture(
        str(video["path"]), facts, _panels(frames[middle], mask, mean, figure), more_facts, more_images
    )


def _panels(
    frame: Pixels, mask: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], figure: Pixels | None = None
) -> dict[str, str]:
    """Return a frame, its mask and the masked frame as data URIs by caption. See `heat_map` for `figure`."""
    panels = {
        "frame": frame,
        "mask": heat_map(frame, mask, figure),
        "masked frame": masked(frame, mask, mean),
    }
    return {caption: _data_uri(pixels) for caption, pixels in panels.items()}


def heat_map(frame: Pixels, mask: npt.NDArray[np.float32], figure: Pixels | None = None) -> Pixels:
    """Draw a smoothed mask over a frame, (H, W, 3), with the outline of the true figure in white.

    Args:
        frame: (H, W, 3).
        mask: (H, W) in [0, 1].
        figure: True mask, (H, W) from 0 to 255, or None.
    """
    blurred = Image.fromarray(np.rint(mask * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(_BLUR * mask.shape[0])
    )
    grey = frame.mean(axis=-1, keepdims=True)
    picture: Pixels = np.rint(0.45 * grey + 0.55 * coloured(np.asarray(blurred) / 255)).astype(np.uint8)
    if figure is not None:
        inside = np.pad(figure >= 128, 1)
        # A pixel is on the outline if one of its four neighbours is outside.
        core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        picture[inside[1:-1, 1:-1] & ~core] = 255
    return picture


def _quality(quality: dict[str, float | None] | str | None) -> list[str]:
    """Describe the quality of a mask, or the reason why it is not known."""
    if quality is None:
        return []
    if isinstance(quality, str):
        return [f"no true mask: {quality}"]
    precision, share, pointing = (
        short(quality[name], missing="–") for name in ("average_precision", "base_share", "pointing_game")
    )
    return [
        f"average precision of the mask {precision} (the figure covers {share}), pointing game {pointing}"
    ]


def _coverage(video: dict[str, Any]) -> str:
    """Describe the size of a mask. Records of older versions have its mean alone, named `coverage`."""
    if "mask_coverage" not in video:
        return f"mask mean {video['coverage']:.2f}"
    return f"mask covers {video['mask_coverage']:.0%} of the picture (pixels above 0.5)".replace("%", " %")


def _prediction(top: dict[str, Any]) -> str:
    return f"{top['label']} with p {top['p']:.2f} (true class {top['p_true']:.2f})"


def strip(frames: Sequence[Pixels]) -> Pixels:
    """Join frames from left to right with gaps: (H, T W + gaps, 3)."""
    gap = np.full((len(frames[0]), 2, 3), 128, np.uint8)
    pieces = [piece for frame in frames for piece in (frame, gap)][:-1]
    return np.concatenate(pieces, axis=1)


def _data_uri(pixels: Pixels) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="WEBP", quality=_WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
