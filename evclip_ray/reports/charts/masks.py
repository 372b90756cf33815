"""Pictures of masks, drawn from the arrays that `evaluation.mask_views` saved."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from evclip_ray.artifacts import file_digest, read_json
from evclip_ray.evaluation.mask_views import ARRAYS, FOLDER, RECORD
from evclip_ray.reports.document import Block, Note, Picture, Pictures
from evclip_ray.training.tensorboard.images import Pixels, coloured, masked

_WEBP_QUALITY = 72


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
    with np.load(arrays) as saved:
        frames, masks = saved["frames"], saved["masks"].astype(np.float32)
    mean_colour = np.asarray(record["mean"], np.float32) * 255
    items = [
        _picture(video, views, mask, mean_colour)
        for video, views, mask in zip(record["videos"], frames, masks, strict=True)
    ]
    caption = (
        "The mask multiplies the normalised pixels of every frame. Where it is 1 (yellow), CLIP sees the "
        "video; where it is 0 (dark), it sees the mean colour. The videos with the largest change come "
        f"first, followed by a random sample (seed {record['seed']}) of the {split} split."
    )
    source = f"{evaluation.name}/{FOLDER}/{ARRAYS} ({file_digest(arrays)})"
    return [Pictures(f"masks_{name}", "Masks", items, caption, (source,))]


def _picture(
    video: dict[str, Any], frames: Pixels, mask: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]
) -> Picture:
    """Draw the frames (T, H, W, 3), the mask (H, W) in [0, 1] and the masked frames."""
    images = {
        "frames": _data_uri(strip(list(frames))),
        "mask, from 0 (dark) to 1 (yellow)": _data_uri(coloured(mask)),
        "masked frames": _data_uri(strip(list(masked(frames, mask, mean)))),
    }
    facts = [
        f"true class: {video['label']}",
        f"zero-shot: {_prediction(video['zero_shot'])}",
        f"adapted: {_prediction(video['adapted'])}",
        f"{_coverage(video)}, entropy {video['entropy']:.2f} of 1; {video['why']}",
    ]
    return Picture(str(video["path"]), facts, images)


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
