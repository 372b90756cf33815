"""EZ-CLIP's and ActionCLIP's lists: `<absolute folder of frames> <number of frames> <class id>`."""

from pathlib import Path

from evclip_ray.data.importers.import_report import ImportReport
from evclip_ray.data.importers.path_label import ListFiles, frames_label, import_lists
from evclip_ray.data.storage import Place


def import_ez_clip(
    root: Place, *, labels: Path, fps: float | None = None, lists: Path | None = None,
    train: Path | None = None, val: Path | None = None, test: Path | None = None,
) -> ImportReport:  # fmt: skip
    """EZ-CLIP's lists; `labels` is an `id,name` CSV or its class descriptions, the rest as `path_label`.

    The folders are those of the authors' machine: each stands for the folder of frames of that name, in
    a folder of that name, under `root`, or for the video of that name. Class ids count from 0. `fps`: the
    rate that the frames were extracted at, if known.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no list.
    """
    files = ListFiles(train, val, test)
    return import_lists(root, files, labels, lists, parse=frames_label, source="ez_clip", fps=fps)
