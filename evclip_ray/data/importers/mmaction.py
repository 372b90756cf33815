"""MMAction's lists: `some/path/000.mp4 1`, and `some/directory-1 163 1` for folders of frames."""

from pathlib import Path

from evclip_ray.data.importers.import_report import ImportReport
from evclip_ray.data.importers.path_label import ListFiles, frames_label, import_lists, path_label
from evclip_ray.data.storage import Place


def import_mmaction(
    root: Place, *, labels: Path, frames: bool = False, fps: float | None = None,
    lists: Path | None = None, train: Path | None = None, val: Path | None = None,
    test: Path | None = None,
) -> ImportReport:  # fmt: skip
    """MMAction's lists; `labels` is its label_map.txt (one name a line) or a CSV, the rest as `path_label`.

    `frames`: the lists name folders of frames; where one is absent, the video of its name stands for it.
    `fps`: the rate that the frames were extracted at, if known.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no list.
    """
    files = ListFiles(train, val, test)
    parse = frames_label if frames else path_label
    return import_lists(root, files, labels, lists, parse=parse, source="mmaction", fps=fps)
