"""Folders of the stages: `ledger.json`, and files that are written to a temporary name and renamed.

The ledger of a stage has the digest of its inputs, its config, row counts, skipped rows with reasons, and
versions. The next stage reads it, refuses a mismatch and skips finished work.
"""

import contextlib
import csv
import errno
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

from evclip_ray.machine_faults import MachineFault, find_fault

LEDGER = "ledger.json"
# Packages whose version can change a result.
_RECORDED = (
    "evclip-ray",
    "torch",
    "torchvision",
    "open_clip_torch",
    "ray",
    "optuna",
    "pyarrow",
    "numpy",
    "av",
)


class ArtifactError(ValueError):
    """Error of a stage folder or file that is missing, damaged, or was made from other inputs."""


def cache_folder(cache: str | Path | None = None) -> Path:
    """Return the folder of decoded videos and cached features, which all runs share.

    Args:
        cache: The folder. Default: `$EVCLIP_RAY_CACHE`, then `$XDG_CACHE_HOME/evclip-ray`, then
            `~/.cache/evclip-ray`.

    Raises:
        ConfigError: None of them is given, and the user has no home folder.
    """
    folder = cache or os.environ.get("EVCLIP_RAY_CACHE")
    if not folder:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "evclip-ray"
    return Path(folder).expanduser().resolve()


def _home() -> Path:
    from evclip_ray.config import ConfigError

    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(
            "no folder for the cache: this user has no home folder. Give --cache FOLDER, or set "
            "EVCLIP_RAY_CACHE or HOME."
        ) from None


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, 16 hex digits. The order of keys does not matter."""
    # These bytes must never change: names of cache folders and keys in ledgers on disk are digests of them.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 16 hex digits."""
    with path.open("rb") as stream:
        # Read in blocks, so weights of any size need little memory.
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, to be renamed to `path`; removed on failure.

    A reader sees either the old or the complete new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. The dot hides the file from
    # patterns such as `*.arrow`.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # `mkstemp` gives the mode 0600, which other users of shared storage could not read.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        # `write` does not know the name of its file.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        # After the rename this name no longer exists.
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def format_csv(header: Sequence[str], rows: Iterable[Iterable[Any]], *, digits: int | None = None) -> str:
    """Format a table as CSV. None and NaN become empty cells.

    Args:
        header: Names of the columns.
        rows: Cells of each row.
        digits: Significant digits of floats; all digits if None.
    """

    def cell(value: Any) -> Any:
        if value is None or value != value:  # NaN differs from itself
            return ""
        return f"{value:.{digits}g}" if digits is not None and isinstance(value, float) else value

    text = io.StringIO()
    # The csv module writes \r\n by default.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]], *, digits: int | None = None
) -> None:
    """Write a table as a CSV file atomically, see `format_csv`."""
    write_text(path, format_csv(header, rows, digits=digits))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        ArtifactError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ArtifactError(
            f"{path}: is not valid JSON; the file is damaged or was not written by evclip-ray"
        ) from None


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs in a `history.jsonl`, one JSON record per line; empty if the file is missing.

    Raises:
        ArtifactError: A line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise ArtifactError(f"{path}: is not text; the file is damaged") from None
    lines, records = text.splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            # The loop replaces the whole file, but a copy of a running study may end within a line.
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ArtifactError(f"{path}: line {number} is not JSON; the file is damaged") from None
    return records


def check_writable(folder: Path, hint: str) -> None:
    """Create a folder if it is missing and check that files can be written to it.

    Args:
        folder: Folder to check.
        hint: What the user should do if it is not writable, the end of the error message.

    Raises:
        ArtifactError: The folder cannot be written to.
        MachineFault: Its disk is full.
    """
    try:
        probe_writable(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and (fault := find_fault(error)):
            raise MachineFault(fault.describe(folder)) from None
        raise ArtifactError(f"{folder}: cannot be written to ({error.strerror}); {hint}") from None


def probe_writable(folder: Path) -> None:
    """Create a folder if it is missing and write a temporary file to it, which leaves nothing behind.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A trial write, because os.access is wrong for read-only mounts and for root.
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")


def write_ledger(
    folder: Path,
    stage: str,
    *,
    inputs: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    skipped: Sequence[Mapping[str, Any]] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Write `ledger.json` and return its content.

    Args:
        folder: Folder of the stage.
        stage: Name of the stage, checked by `read_ledger`.
        inputs: Everything that decides the stage's output; its digest is the ledger's `key`.
        counts: Numbers of rows.
        skipped: Skipped rows with reasons.
        **extra: Further entries.
    """
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
    """Return the ledger of a folder of `stage`.

    Raises:
        ArtifactError: The folder has no ledger, or one of another stage.
    """
    ledger = read_json(folder / LEDGER)
    actual = ledger.get("stage") if isinstance(ledger, dict) else None
    if actual != stage:
        raise ArtifactError(f"{folder}: must be a {stage!r} folder, but its ledger has the stage {actual!r}")
    return dict(ledger)


@functools.cache
def provenance() -> dict[str, Any]:
    """Return library versions and the git revision of this source tree (None outside a checkout)."""
    versions = {}
    for name in _RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "git": _git_revision()}


def _git_revision() -> str | None:
    package = Path(__file__).resolve().parent
    # An installed package may lie in somebody else's git repository, whose revision would be wrong here.
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(
            command, cwd=package, capture_output=True, text=True, timeout=10, check=True
        )
    # The revision is information only, so a missing or slow git must not stop a stage.
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
