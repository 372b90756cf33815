"""Importer of the lists of MMAction: `some/path/000.mp4 1` or `some/frames-1 163 1`."""

from pathlib import Path

from evclip_ray.data.importers.import_report import ImportReport
from evclip_ray.data.importers.path_label import ListFiles, frames_label, import_lists, path_label
from evclip_ray.data.storage import Place


def import_mmaction(
    root: Place,
    *,
    labels: Path,
    frames: bool = False,
    fps: float | None = None,
    lists: Path | None = None,
    train: Path | None = None,
    val: Path | None = None,
    test: Path | None = None,
) -> ImportReport:
    """Import the lists of MMAction.

    Args:
        root: Folder of the videos or frames.
        labels: label_map.txt (one name per line) or a CSV.
        frames: True if the lists contain folders of frames. Absent ones are replaced by the video of that
            name.
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
    parse = frames_label if frames else path_label
    return import_lists(root, files, labels, lists, parse=parse, source="mmaction", fps=fps)
