"""What every stage leaves behind: a folder with a `ledger.json`, written to a temporary name and renamed.

The ledger says what went in (a digest), with which config, how many rows came out, which were
skipped and why, and which versions did the work. The next stage reads it, refuses a mismatch and
skips what is done.
"""

import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LEDGER = "ledger.json"
_RECORDED = (
    "evclip-ray", "torch", "torchvision", "open_clip_torch", "ray", "optuna", "pyarrow", "numpy", "av"
)  # fmt: skip


class ArtifactError(ValueError):
    """A stage folder that is missing, foreign, or was made from other inputs."""


def digest(value: Any) -> str:
    """SHA-256, 16 hex digits, of a JSON-like value; the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256, 16 hex digits, of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed over `path` on success, removed on failure.

    A reader therefore sees the old file or the whole new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table whole or not at all; what is None or not a number is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None or cell != cell else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ArtifactError(f"{path}: is not JSON; it was damaged or is not ours") from None


def write_ledger(
    folder: Path,
    stage: str,
    *,
    inputs: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    skipped: Sequence[Mapping[str, Any]] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Write `folder/ledger.json` and return it; `key` is the digest of `inputs`."""
    ledger = {
        "stage": stage,
        "key": digest(inputs),
        "inputs": dict(inputs),
        "counts": dict(counts or {}),
        "skipped": [dict(row) for row in skipped],
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "provenance": provenance(),
        **extra,
    }
    write_json(folder / LEDGER, ledger)
    return ledger


def read_ledger(folder: Path, stage: str) -> dict[str, Any]:
    """The ledger of a folder that `stage` made.

    Raises:
        ArtifactError: no ledger, or another stage's.
    """
    ledger = read_json(folder / LEDGER)
    found = ledger.get("stage") if isinstance(ledger, dict) else None
    if found != stage:
        raise ArtifactError(f"{folder}: must be a {stage!r} folder, its ledger says {found!r}")
    return dict(ledger)


@functools.cache
def provenance() -> dict[str, Any]:
    """Library versions and the git revision of this source tree (None outside a checkout)."""
    versions = {}
    for name in _RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "git": _git_revision()}


def _git_revision() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
