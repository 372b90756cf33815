"""Digests of a shared checkpoint, and the checks of what was downloaded.

    digests.json    {"format": 1, "files": {name: {"bytes": size, "sha256": digest}}}

The file is the list of a shared checkpoint: a file that it does not name is never downloaded. It is uploaded
last, so that an upload that was cut has none, or one that does not fit. `checksums.json`, which every
checkpoint has, finds damage; these digests also withstand a deliberate change.

The model card is not in it, because it is edited on the hub's page and does not change a prediction.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError, write_json
from evclip_ray.formatting import binary_size
from evclip_ray.training.checksums import DamagedFile

DIGESTS = "digests.json"
CARD = "README.md"
EXPORTS = "exports"
"""Folder of exported models in a shared checkpoint."""

MAX_LIST_BYTES = 2**20
MAX_BYTES = 2 * 2**30
"""Most bytes of the files that are loaded. Prompts have a few MB; a fine-tuned ViT-L/14 has 1.2 GB."""

_FORMAT = 1
_NAME = re.compile(r"(exports/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """Size in bytes and SHA-256 of a file."""

    num_bytes: int
    sha256: str


def is_safe(name: str) -> bool:
    """Return whether a name is that of a file in the folder itself or in `exports/`.

    >>> is_safe("config.json"), is_safe("exports/model.onnx"), is_safe("../config.json")
    (True, True, False)
    """
    return _NAME.fullmatch(name) is not None


def digest_of(path: Path) -> FileDigest:
    """Return the size and the SHA-256 of a file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileDigest(stream.tell(), sha256)


def write_digests(folder: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Write `digests.json` of some files of a folder and return its content."""
    digests = {name: digest_of(folder / name) for name in sorted(names)}
    files = {name: {"bytes": each.num_bytes, "sha256": each.sha256} for name, each in digests.items()}
    write_json(folder / DIGESTS, {"format": _FORMAT, "files": files})
    return digests


def parse_digests(content: bytes, source: str) -> dict[str, FileDigest]:
    """Return the digests by file name.

    Args:
        content: Bytes of a `digests.json`.
        source: Path or URI of the file, for messages.

    Raises:
        ArtifactError: The content is no such list, is of a newer version, or has a name that leads out of the
            folder.
    """
    try:
        listed: Any = json.loads(content)
        number, files = listed["format"], listed["files"]
        digests = {name: FileDigest(each["bytes"], each["sha256"]) for name, each in files.items()}
        is_whole = all(
            type(each.num_bytes) is int and each.num_bytes >= 0 and _SHA256.fullmatch(each.sha256)
            for each in digests.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        number, digests, is_whole = None, {}, False
    if isinstance(number, int) and number > _FORMAT:
        raise ArtifactError(
            f"{source}: has format {number}, this version reads {_FORMAT}. Update evclip-ray."
        )
    if not is_whole:
        raise DamagedFile(f"{source}: is not a list of digests; the file is damaged")
    for name in digests:
        if not is_safe(name):
            raise ArtifactError(
                f"{source}: names the file {name!r}, which may lie outside of its folder. No file "
                "was downloaded; do not trust this source."
            )
    return digests


def read_digests(folder: Path) -> dict[str, FileDigest] | None:
    """Return the digests of a folder; None if it has none."""
    path = folder / DIGESTS
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DamagedFile(f"{path}: is larger than {binary_size(MAX_LIST_BYTES)}; the file is damaged")
    return parse_digests(path.read_bytes(), str(path))


def check_size(digests: Mapping[str, FileDigest], source: str) -> None:
    """Check the size of the files that are loaded.

    Raises:
        ArtifactError: They are larger than `MAX_BYTES` together.
    """
    total = sum(each.num_bytes for each in digests.values())
    if total > MAX_BYTES:
        raise ArtifactError(
            f"{source}: its files have {binary_size(total)} together, more than the limit of "
            f"{binary_size(MAX_BYTES)} for a shared checkpoint"
        )


def check_files(
    folder: Path, digests: Mapping[str, FileDigest], *, source: str | None = None, advice: str
) -> None:
    """Compare files with their digests.

    Args:
        folder: Folder of the files.
        digests: Expected digests by name.
        source: Path or URI of the folder in error messages; by default `folder`.
        advice: What to do, the end of the error message.

    Raises:
        DamagedFile: A file is missing, cut or changed. The message names it.
    """
    for name, expected in digests.items():
        path, shown = folder / name, f"{source or folder}/{name}"
        if not path.is_file():
            raise DamagedFile(f"{shown}: is missing, but {DIGESTS} lists it. {advice}")
        size = path.stat().st_size
        if size != expected.num_bytes:
            raise DamagedFile(f"{shown}: must have {expected.num_bytes:,} bytes, got {size:,}. {advice}")
        if digest_of(path) != expected:
            raise DamagedFile(f"{shown}: its content is not the one that {DIGESTS} lists. {advice}")
