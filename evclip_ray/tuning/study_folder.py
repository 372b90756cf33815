"""A study's folder: what it holds, whom it belongs to, and the table that people read.

    ledger.json          what the study is (another one is refused here), which videos it was measured
                         on, and which earlier studies it was started from
    fixed.json           the settings that all trials share
    videos/              where the decoded videos of each variant are
    study.journal        the Optuna study (journal storage)
    trials/trial-0000/   point.json, history.jsonl, event files, best/, last/, result.json when ended
    zero_shot/           what zero-shot CLIP scores on the same validation views
    leaderboard.csv      the trials, best first; written anew after each
    best.yaml, best/     the best trial's experiment, and its checkpoint

The trial folders are the truth: the rest can be made again from them.
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from evclip_ray.artifacts import (
    LEDGER,
    ArtifactError,
    digest,
    read_json,
    read_ledger,
    replacing,
    write_json,
    write_ledger,
    write_text,
)  # fmt: skip
from evclip_ray.training.checkpoint import latest_checkpoint, read_record
from evclip_ray.tuning.leaderboard import as_csv, leaderboard

FINISHED = ("complete", "stopped", "diverged", "failed")
OBJECTIVE = "objective"
"""The reported metric that is maximised: the best validation top-1 up to that epoch."""

_LOCK, _OWNER = ".lock", ".owner.json"


class StudyFolder:
    """Paths and records of one study on storage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # A study of a thousand trials has its table written a thousand times.
        self._ended: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def trial(self, name: str) -> Path:
        """The folder of a trial."""
        return self.root / "trials" / name

    @property
    def journal(self) -> Path:
        """The Optuna journal."""
        return self.root / "study.journal"

    @property
    def fixed(self) -> Path:
        """The settings that all trials share."""
        return self.root / "fixed.json"

    def videos(self, key: str) -> Path:
        """Where the decoded videos of one variant are written down."""
        return self.root / "videos" / f"{key}.json"

    def zero_shot(self, key: str) -> Path:
        """The zero-shot numbers under one set of conditions."""
        return self.root / "zero_shot" / f"{key}.json"

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether the study has begun here.

        Raises:
            ArtifactError: the folder holds another study or other files.
        """
        if (self.root / LEDGER).is_file():
            ledger = read_ledger(self.root, "study")
            if ledger["key"] != digest(identity):
                changed = sorted(k for k in identity if ledger["inputs"].get(k) != identity[k])
                raise ArtifactError(
                    f"{self.root}: belongs to another study (it differs in: {', '.join(changed)}); "
                    "choose another --out, or give the settings that it began with"
                )
            return True
        ours = {_LOCK, _OWNER}
        if self.root.is_file() or (
            self.root.is_dir() and any(p.name not in ours for p in self.root.iterdir())
        ):
            raise ArtifactError(
                f"{self.root}: must be a new folder or a study's, it holds other files; choose another --out"
            )
        return False

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Make the folder this study's.

        Raises:
            ArtifactError: as `check`, or the folder cannot be written to.
        """
        begun = self.check(identity)
        self.check_writable()
        with self.lock():
            if not begun:
                write_ledger(self.root, "study", inputs=identity)

    def ledger(self) -> dict[str, Any]:
        """What the study is, and what was noted of it since.

        Raises:
            ArtifactError: the folder is not a study's.
        """
        return read_ledger(self.root, "study")

    def note(self, **facts: Any) -> None:
        """Add facts to the ledger."""
        write_json(self.root / LEDGER, self.ledger() | facts)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Have the folder to oneself; the lock goes with its process, however that ends.

        Raises:
            ArtifactError: another process has it, with who that is.
        """
        owner, lock = self.root / _OWNER, FileLock(self.root / _LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            has = read_json(owner) if owner.is_file() else {"pid": "?", "host": "?"}
            raise ArtifactError(
                f"{self.root}: process {has['pid']} on {has['host']} is running this study; "
                "wait for it, end it, or choose another --out"
            ) from None
        try:
            write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            lock.release()

    def check_writable(self) -> None:
        """Make the folder, or find that it can be written to.

        Raises:
            ArtifactError: it cannot.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise ArtifactError(
                f"{self.root}: cannot be written to ({error.strerror}); choose another --out"
            ) from None

    def trials(self) -> Iterator[dict[str, Any]]:
        """The record of every trial that has begun: point, history, and how it ended if it has."""
        for folder in sorted((self.root / "trials").glob("trial-*")):
            if (folder / "point.json").is_file():
                yield self._read_trial(folder)

    def _read_trial(self, folder: Path) -> dict[str, Any]:
        """The record of one trial; of one that has ended, read again only where its files are new."""
        result = folder / "result.json"
        if not result.is_file():
            return _record(folder, {})
        files = (result, folder / "history.jsonl")
        stamp = tuple(path.stat().st_mtime_ns for path in files if path.is_file())
        known, record = self._ended.get(folder.name, ((), {}))
        if known != stamp:
            record = _record(folder, read_json(result))
            self._ended[folder.name] = stamp, record
        return record

    def begin(self, name: str, overrides: Mapping[str, Any]) -> None:
        """Write the point of a trial, before anything of it can fail; a paused one is under way again."""
        (self.trial(name) / "result.json").unlink(missing_ok=True)
        write_json(self.trial(name) / "point.json", {"overrides": dict(overrides)})

    def finish(self, name: str, state: str, error: str | None = None) -> None:
        """Write how a trial ended, or that it is paused, and the tables that follow from it."""
        write_json(self.trial(name) / "result.json", {"state": state, "error": error})
        self.write_leaderboard()

    def write_leaderboard(self) -> list[dict[str, Any]]:
        """Write `leaderboard.csv`, `best.yaml` and `best/` from the trial folders; returns the rows."""
        rows = leaderboard(self.trials())
        if not rows:
            return rows
        write_text(self.root / "leaderboard.csv", as_csv(rows))
        self._write_best(rows)
        return rows

    def _write_best(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            checkpoint = latest_checkpoint(self.trial(row["trial"]) / "best")
            if checkpoint is None:
                continue
            record = read_record(checkpoint)
            seeds = row["point_seeds"]
            mean = f" (mean of {seeds} seeds {row['point_top1']:.3f})" if seeds > 1 else ""
            head = (
                f"# The best of {len(rows)} trials: {row['trial']}, "
                f"validation top-1 {row['val_top1']:.3f}{mean}.\n"
                "# Train it again:  evclip-ray train best.yaml\n"
            )
            write_text(self.root / "best.yaml", head + yaml.safe_dump(record["experiment"], sort_keys=False))
            _copy_folder(checkpoint, self.root / "best")
            return


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a checkpoint file by file, each whole or not at all."""
    for item in sorted(source.iterdir()):
        with replacing(target / item.name) as temporary:
            shutil.copyfile(item, temporary)


def _record(folder: Path, ended: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trial": folder.name,
        "overrides": read_json(folder / "point.json")["overrides"],
        "state": ended.get("state", "running"),
        "error": ended.get("error"),
        "history": _history(folder),
    }


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            # Ours is written whole; a copy of a study that runs may end in the middle of a line.
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ArtifactError(f"{path}: line {number} is not JSON; it was damaged or is not ours") from None
    return found
