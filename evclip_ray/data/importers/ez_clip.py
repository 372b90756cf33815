"""Importer of the lists of EZ-CLIP and ActionCLIP: `<folder of frames> <number of frames> <class id>`."""

from pathlib import Path

from evclip_ray.data.importers.import_report import ImportReport
from evclip_ray.data.importers.path_label import ListFiles, frames_label, import_lists
from evclip_ray.data.storage import Place


def import_ez_clip(
    root: Place,
    *,
    labels: Path,
    fps: float | None = None,
    lists: Path | None = None,
    train: Path | None = None,
    val: Path | None = None,
    test: Path | None = None,
) -> ImportReport:
    """Import the lists of EZ-CLIP. Class ids count from 0.

    The listed folders are those of the authors' machine. Each one is matched with a folder of frames or a
    video of the same name, in a folder of the same name, under `root`.

    Args:
        root: Folder of the frames or videos.
        labels: `id,name` CSV, or the CSV of class descriptions.
        fps: Frame rate of the extracted frames, None if unknown.
        lists: See `import_path_label`.
        train: See `import_path_label`.
        val: See `import_path_label`.
        test: See `import_path_label`.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: There is no list.
    """
    files = ListFiles(train, val, test)
    return import_lists(root, files, labels, lists, parse=frames_label, source="ez_clip", fps=fps)
