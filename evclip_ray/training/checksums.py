"""Checksums of the files of a checkpoint, and the checks that find damaged ones.

    checksums.json    size and CRC-32 of each file, by name

A power loss, a full disk or a copy that was cut short can leave a file that is short, empty or changed. A
changed number in a tensor would otherwise be trained on without a sign.
"""

import zlib
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from evclip_ray.artifacts import ArtifactError, read_json, write_json

CHECKSUMS = "checksums.json"
_NEEDED = ("adapter.safetensors", "config.json")


class DamagedFile(ArtifactError):
    """Error of a file that is missing, cut or changed."""


def check_checkpoint(folder: Path, *, contents: bool = True) -> None:
    """Check that the files of a checkpoint are those that were written.

    Args:
        folder: Folder of the checkpoint.
        contents: Whether to compare the contents; otherwise only the sizes.

    Raises:
        DamagedFile: A file is missing, cut or changed.
    """
    if not folder.is_dir():
        raise DamagedFile(f"{folder}: is missing")
    written = read_checksums(folder)
    if written is None:
        _check_unlisted(folder)
        return
    for name, (size, crc) in written.items():
        try:
            actual = (folder / name).stat().st_size
        except FileNotFoundError:
            raise DamagedFile(f"{folder / name}: is missing") from None
        if actual != size:
            raise DamagedFile(f"{folder / name}: must have {size} bytes, got {actual}")
        if contents:
            check_content(folder / name, crc)


def check_content(path: Path, crc: int) -> None:
    """Compare a file with its checksum.

    Raises:
        DamagedFile: Its content has changed.
    """
    if _crc(path) != crc:
        raise DamagedFile(f"{path}: its content has changed since it was written; the file is damaged")


def read_checksums(folder: Path) -> dict[str, tuple[int, int]] | None:
    """Return size and CRC-32 of each file of a checkpoint; None for one of an earlier version.

    Raises:
        DamagedFile: The file of the checksums is damaged.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return None
    try:
        return {name: (int(size), int(crc)) for name, (size, crc) in read_json(path).items()}
    except (ArtifactError, AttributeError, TypeError, ValueError):
        raise DamagedFile(f"{path}: cannot be read; the file is damaged") from None


def _check_unlisted(folder: Path) -> None:
    """Check a checkpoint of an earlier version, which has no checksums."""
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise DamagedFile(f"{folder / name}: is missing")
    for path in sorted(folder.glob("*.json")):
        try:
            read_json(path)
        except ArtifactError as error:
            raise DamagedFile(str(error)) from None
    for path in sorted(folder.glob("*.safetensors")):
        _check_tensors(path)


def _check_tensors(path: Path) -> None:
    """Check that a safetensors file has the length that its header names."""
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise DamagedFile(f"{path}: cannot be read as safetensors ({error}); the file is damaged") from None


def write_checksums(folder: Path, left_out: Collection[str]) -> None:
    """Write the checksums of the files in a folder, but for those in `left_out`."""
    # CRC-32 finds damage as surely as a digest that also withstands forgery, at a tenth of its time.
    files = sorted(file for file in folder.iterdir() if file.name not in (*left_out, CHECKSUMS))
    write_json(folder / CHECKSUMS, {file.name: [file.stat().st_size, _crc(file)] for file in files})


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc
