"""Files that `evclip-ray predict` writes: their names, and a check before anything is computed.

Nothing here imports PyTorch.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from evclip_ray.data import storage
from evclip_ray.data.manifest.discovery import stem
from evclip_ray.deploy.inputs import InputError
from evclip_ray.formatting import counted

OVERLAY_SUFFIX, SHEET_SUFFIX = ".mp4", ".png"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Files of one command; None for those that were not asked for.

    Attributes:
        json_file: JSON lines.
        csv_file: CSV table.
        sheet: PNG file.
        overlays: Video -> file of its overlay.
    """

    json_file: Path | None = None
    csv_file: Path | None = None
    sheet: Path | None = None
    overlays: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    def files(self) -> list[tuple[Path, str]]:
        """Return file and option of all outputs."""
        named = [(self.json_file, "--json-file"), (self.csv_file, "--csv"), (self.sheet, "--sheet")]
        named += [(path, "--overlay") for path in self.overlays.values()]
        return [(path, option) for path, option in named if path is not None]


def overlay_files(target: Path, videos: Sequence[str]) -> dict[str, Path]:
    """Return video -> file of its overlay.

    A target with the ending .mp4 is the file of a single video. Any other is a folder, in which the files
    have the names of the videos, below the folder that all videos share.

    >>> {video: str(path) for video, path in overlay_files(Path("out"), ["v/a/1.mp4", "v/b/1.avi"]).items()}
    {'v/a/1.mp4': 'out/a/1.mp4', 'v/b/1.avi': 'out/b/1.avi.mp4'}

    Raises:
        InputError: Several videos have one target.
    """
    if target.suffix.lower() == OVERLAY_SUFFIX and not target.is_dir():
        if len(videos) > 1:
            raise InputError(
                f"--overlay {target}: one file cannot hold {counted(len(videos), 'video')}; give the name "
                f"of a folder"
            )
        return dict.fromkeys(videos, target)
    if target.suffix and stem(target.name) != target.name:
        raise InputError(f"--overlay {target}: overlays are {OVERLAY_SUFFIX} files, or a folder of them")
    # Without the scheme of URIs. Absolute paths have no ".." that could leave the target.
    places = {
        video: video.partition("://")[2] if storage.is_uri(video) else os.path.abspath(video)  # noqa: PTH100
        for video in videos
    }
    folders = [place.split("/")[:-1] for place in places.values()]
    # Of lists, `commonprefix` returns the common elements.
    num_shared = len(os.path.commonprefix(folders))  # noqa: RUF071
    files = {}
    for video, place in places.items():
        name = "/".join(part for part in place.split("/")[num_shared:] if part not in ("", ".", ".."))
        files[video] = target / (name if name.lower().endswith(OVERLAY_SUFFIX) else name + OVERLAY_SUFFIX)
    if len(set(files.values())) < len(files):
        raise InputError(f"--overlay {target}: two of the videos would get the same file; give them apart")
    return files


def check_outputs(outputs: Outputs, videos: Iterable[str]) -> None:
    """Check that outputs neither replace a video nor each other, and that their folders can be written to.

    Args:
        outputs: The files.
        videos: Videos that are read.

    Raises:
        InputError: An output must not be written.
    """
    files = outputs.files()
    if len({_real(path) for path, _ in files}) < len(files):
        raise InputError("two of --json-file, --csv, --sheet and --overlay name the same file")
    for path, option in files:
        text = option in ("--json-file", "--csv")
        if text and stem(path.name) != path.name:
            raise InputError(f"{option} {path}: has the ending of a video; choose another name")
        if option == "--sheet" and path.suffix.lower() != SHEET_SUFFIX:
            raise InputError(f"--sheet {path}: the name must end with {SHEET_SUFFIX}")
        if path.is_dir():
            raise InputError(f"{option} {path}: is a folder; give the name of a file")
        _check_folder(path, option)
    inputs = {_real(video): video for video in videos if not storage.is_uri(video)}
    for path, option in files:
        if _real(path) in inputs:
            raise InputError(
                f"{option} {path}: would replace the video {inputs[_real(path)]}; choose another name"
            )


def _real(path: str | Path) -> str:
    """Return a path without links, so that two names of one file are equal."""
    return os.path.realpath(path)


def _check_folder(path: Path, option: str) -> None:
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: cannot be written, because the folder {folder} is read-only")
