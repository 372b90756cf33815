"""What of a working directory travels with a job: settings and lists; never data, never credentials.

Left behind are hidden files and folders (.git, .venv, .aws, .ssh, .env), names that say credentials,
files that hold something like a key, videos and arrays, and folders that a stage made (they have a
ledger.json); of these last, files that the command names travel all the same.
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

MOST_BYTES = 100 * 10**6
_CREDENTIALS = (
    "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    "*token*", "*secret*", "*credential*", "*password*", "kubeconfig*", "*.kubeconfig",
    "*service_account*.json",
)  # fmt: skip
_DATA = (
    "*.mp4", "*.avi", "*.mkv", "*.mov", "*.webm", "*.m4v", "*.mpg", "*.mpeg", "*.wmv", "*.flv", "*.jpg",
    "*.jpeg", "*.png", "*.gif", "*.npy", "*.npz", "*.arrow", "*.feather", "*.h5", "*.hdf5", "*.lmdb", "*.pt",
    "*.pth", "*.ckpt", "*.safetensors", "*.bin", "*.pkl", "*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z",
    "*.whl",
)  # fmt: skip
_FOLDERS = ("__pycache__", "node_modules", "*.egg-info", "build", "dist", "venv", "env")
# A longer file is a list of videos, not a key.
_SNIFFED_BYTES = 10**6
# The same files must give the same bytes, so that Ray knows them again.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Packed:
    """Files to send (relative), bytes of them together, and what stays behind, by reason."""

    root: Path
    files: tuple[Path, ...]
    size: int
    left_behind: dict[str, tuple[Path, ...]]

    def write(self, path: Path) -> None:
        """Write them as a zip file; the same files give the same bytes."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.files:
                info = zipfile.ZipInfo(file.as_posix(), _EPOCH)
                info.external_attr = 0o644 << 16
                archive.writestr(info, (self.root / file).read_bytes(), zipfile.ZIP_DEFLATED)


def select_files(root: Path, *, named: Sequence[Path] = ()) -> Packed:
    """The files under `root` that travel with a job; `named`: files that its command names.

    Raises:
        ConfigError: together they are too large (the largest is named), or a named one holds a key.
    """
    wanted = {Path(os.path.normpath(path)) for path in named if not path.is_absolute()}
    files, left = {}, dict[str, list[Path]]()
    for path in sorted({*_walk(root, left), *(p for p in wanted if (root / p).is_file())}):
        reason = _reason(root, path, is_named=path in wanted)
        if reason is None:
            files[path] = (root / path).stat().st_size
        elif path in wanted:
            raise ConfigError(f"{path}: is named by the command but {reason}; nothing of that kind is sent")
        else:
            left.setdefault(reason, []).append(path)
    size = sum(files.values())
    if size > MOST_BYTES:
        largest = max(files, key=lambda path: files[path])
        raise ConfigError(
            f"{root}: {size / 1e6:.0f} MB are too much to send, {MOST_BYTES / 1e6:.0f} MB at most; the "
            f"largest is {largest} ({files[largest] / 1e6:.0f} MB). Put data on the storage that the cluster "
            "mounts, or submit from a smaller --working-dir"
        )
    return Packed(root, tuple(files), size, {reason: tuple(paths) for reason, paths in left.items()})


def _walk(root: Path, left: dict[str, list[Path]]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        if LEDGER in names and here != Path():
            left.setdefault("was made by a stage", []).append(here)
            folders.clear()
            continue
        for name in list(folders):
            if (
                name.startswith(".")
                or _matches(name, _FOLDERS)
                or (Path(folder) / name / "pyvenv.cfg").is_file()
            ):
                folders.remove(name)
                left.setdefault("is hidden or can be made again", []).append(here / name)
        yield from (here / name for name in names)


def _reason(root: Path, path: Path, *, is_named: bool) -> str | None:
    """Why a file stays behind, or None."""
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("is hidden or can be made again", lambda: path.name.startswith(".")),
        ("looks like a credential", lambda: _matches(path.name, _CREDENTIALS)),
        ("is data", lambda: not is_named and _matches(path.name, _DATA)),
        ("is no plain file", lambda: (root / path).is_symlink() or not (root / path).is_file()),
        ("holds something like a key", lambda: _holds_secret(root / path)),
    )
    return next((reason for reason, applies in checks if applies()), None)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def _holds_secret(path: Path) -> bool:
    if path.stat().st_size > _SNIFFED_BYTES:
        return False
    return holds_secret(path.read_text(encoding="utf-8", errors="replace"))
