"""Files of a working directory that are sent with a job: settings and lists, never data or credentials.

These are not sent:
- hidden files and folders (.git, .venv, .aws, .ssh, .env),
- files with a name that suggests credentials, and files that contain what looks like a key,
- videos and arrays,
- output folders of a stage, which contain a ledger.json. Their files are sent if the command refers to them.
"""

import dataclasses
import fnmatch
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from evclip_ray.artifacts import LEDGER
from evclip_ray.cluster.lint.problems import holds_secret
from evclip_ray.config import ConfigError

MAX_BYTES = 100 * 10**6
_CREDENTIALS = (
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*token*",
    "*secret*",
    "*credential*",
    "*password*",
    "kubeconfig*",
    "*.kubeconfig",
    "*service_account*.json",
)
_DATA = (
    "*.mp4",
    "*.avi",
    "*.mkv",
    "*.mov",
    "*.webm",
    "*.m4v",
    "*.mpg",
    "*.mpeg",
    "*.wmv",
    "*.flv",
    "*.jpg",
    "*.jpeg",
    "*.png",
    "*.gif",
    "*.npy",
    "*.npz",
    "*.arrow",
    "*.feather",
    "*.h5",
    "*.hdf5",
    "*.lmdb",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.safetensors",
    "*.bin",
    "*.pkl",
    "*.zip",
    "*.tar",
    "*.tar.*",
    "*.tgz",
    "*.7z",
    "*.whl",
)
_FOLDERS = ("__pycache__", "node_modules", "*.egg-info", "build", "dist", "venv", "env")
# A longer file is a list of videos, not a key, and scanning it would be slow.
_MAX_SCANNED_BYTES = 10**6
# A fixed date makes the archive reproducible, so Ray recognises an upload that it already has.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class FileSelection:
    """Files to send, relative to `root`, their total bytes, and the excluded files by reason."""

    root: Path
    files: tuple[Path, ...]
    size: int
    excluded: dict[str, tuple[Path, ...]]

    def write(self, path: Path) -> None:
        """Write the files to a zip file. The same files give the same bytes."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.files:
                info = zipfile.ZipInfo(file.as_posix(), _EPOCH)
                # The upper 16 bits are the Unix mode. With zipfile's default, 0600, only the owner can read.
                info.external_attr = 0o644 << 16
                archive.writestr(info, (self.root / file).read_bytes(), zipfile.ZIP_DEFLATED)


def select_files(root: Path, *, named: Sequence[Path] = ()) -> FileSelection:
    """Select the files under a folder that are sent with a job.

    Args:
        root: Working directory.
        named: Relative paths of files that the command refers to.

    Raises:
        ConfigError: The files are too large, or one that the command refers to must not be sent.
    """
    wanted = {Path(os.path.normpath(path)) for path in named if not path.is_absolute()}
    files, excluded = {}, dict[str, list[Path]]()
    for path in sorted({*_walk(root, excluded), *(p for p in wanted if (root / p).is_file())}):
        reason = _reason(root, path, is_named=path in wanted)
        if reason is None:
            files[path] = (root / path).stat().st_size
        elif path in wanted:
            raise ConfigError(f"{path}: is named by the command but {reason}, so it is not sent")
        else:
            excluded.setdefault(reason, []).append(path)
    size = sum(files.values())
    if size > MAX_BYTES:
        largest = max(files, key=lambda path: files[path])
        raise ConfigError(
            f"{root}: {size / 1e6:.0f} MB are too large to send (limit {MAX_BYTES / 1e6:.0f} MB); the "
            f"largest is {largest} ({files[largest] / 1e6:.0f} MB). Put data on the storage that the cluster "
            "mounts, or submit from a smaller --working-dir"
        )
    return FileSelection(
        root, tuple(files), size, {reason: tuple(paths) for reason, paths in excluded.items()}
    )


def _walk(root: Path, excluded: dict[str, list[Path]]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        relative = Path(folder).relative_to(root)
        # The root itself is sent even if a stage wrote to it.
        if LEDGER in names and relative != Path():
            excluded.setdefault("is output of a stage", []).append(relative)
            # `os.walk` descends into what is left of this list.
            folders.clear()
            continue
        for name in list(folders):
            if (
                name.startswith(".")
                or _matches(name, _FOLDERS)
                or (Path(folder) / name / "pyvenv.cfg").is_file()
            ):
                folders.remove(name)
                excluded.setdefault("is hidden or can be regenerated", []).append(relative / name)
        yield from (relative / name for name in names)


def _reason(root: Path, path: Path, *, is_named: bool) -> str | None:
    """Return why a file is not sent, None if it is sent."""
    # Names are checked before the content, which must be read from disk.
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("is hidden or can be regenerated", lambda: path.name.startswith(".")),
        ("looks like a credential", lambda: _matches(path.name, _CREDENTIALS)),
        ("is data", lambda: not is_named and _matches(path.name, _DATA)),
        ("is not a regular file", lambda: (root / path).is_symlink() or not (root / path).is_file()),
        ("contains what looks like a key", lambda: _holds_secret(root / path)),
    )
    return next((reason for reason, applies in checks if applies()), None)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def _holds_secret(path: Path) -> bool:
    if path.stat().st_size > _MAX_SCANNED_BYTES:
        return False
    return holds_secret(path.read_text(encoding="utf-8", errors="replace"))
