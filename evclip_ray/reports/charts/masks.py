"""Pictures of what the masks look at, drawn from the arrays that `deploy.mask_views` saved."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from evclip_ray.artifacts import file_digest, read_json
from evclip_ray.reports.document import Block, Note, Picture, Pictures

FOLDER, RECORD, ARRAYS = "masks", "masks.json", "masks.npz"
_QUALITY = 72

Pixels = npt.NDArray[np.uint8]


def mask_pictures(evaluation: Path, name: str, *, split: str) -> list[Block]:
    """The saved pictures of an evaluation on a `split`, or why there are none."""
    path = evaluation / FOLDER / RECORD
    if not path.is_file():
        return []
    record = read_json(path)
    if record.get("reason"):
        return [Note(f"What the masks look at: {record['reason']}")]
    arrays = evaluation / FOLDER / ARRAYS
    with np.load(arrays) as saved:
        frames, masks = saved["frames"], saved["masks"].astype(np.float32)
    mean = np.asarray(record["mean"], np.float32)
    items = [
        _picture(video, views, mask, mean)
        for video, views, mask in zip(record["videos"], frames, masks, strict=True)
    ]
    says = (
        "The mask multiplies the normalised pixels of every frame: where it is 1 (yellow) CLIP sees the "
        "video, where it is 0 (dark) its mean colour. First the videos whose answer changed most, then some "
        f"by lot (seed {record['seed']}), of the {split} split."
    )
    source = f"{evaluation.name}/{FOLDER}/{ARRAYS} ({file_digest(arrays)})"
    return [Pictures(f"masks_{name}", "What the masks look at", items, says, (source,))]


def _picture(
    video: dict[str, Any], frames: Pixels, mask: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]
) -> Picture:
    """`frames`: (T, H, W, 3); `mask`: (H, W) in [0, 1]."""
    heat = np.round(colormaps["viridis"](mask)[..., :3] * 255).astype(np.uint8)
    masked = mean * 255 + (frames - mean * 255) * mask[None, ..., None]
    images = {
        "frames": _data_uri(strip(list(frames))),
        "mask, from 0 (dark) to 1 (yellow)": _data_uri(heat),
        "masked frames": _data_uri(strip(list(np.clip(np.round(masked), 0, 255).astype(np.uint8)))),
    }
    facts = [
        f"true class: {video['label']}",
        f"before: {_answer(video['zero_shot'])}",
        f"after: {_answer(video['adapted'])}",
        f"mask: mean {video['coverage']:.2f}, entropy {video['entropy']:.2f} of 1; {video['why']}",
    ]
    return Picture(str(video["path"]), facts, images)


def _answer(answer: dict[str, Any]) -> str:
    return f"{answer['label']} with p {answer['p']:.2f} (true class {answer['p_true']:.2f})"


def strip(frames: Sequence[Pixels]) -> Pixels:
    """Frames side by side with a gap: (H, T W + gaps, 3)."""
    gap = np.full((len(frames[0]), 2, 3), 128, np.uint8)
    pieces = [piece for frame in frames for piece in (frame, gap)][:-1]
    return np.concatenate(pieces, axis=1)


def _data_uri(pixels: Pixels) -> str:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"
