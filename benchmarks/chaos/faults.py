"""Faults: kills while a command runs, and damage to the files of a study between two commands."""

import dataclasses
import os
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from .processes import Command
from .study import ChaosStudy

_TRIAL_FILES = (
    "point.json",
    "history.jsonl",
    "result.json",
    "best/adapter.safetensors",
    "best/config.json",
    "last/adapter.safetensors",
    "last/optimizer.safetensors",
    "last/config.json",
    "last/history.jsonl",
    "last/validation_epochs.npz",
)
_STUDY_FILES = ("fixed.json", "videos/*", "zero_shot/*", "leaderboard.csv", "best.yaml", "best/*")
_TRAIN_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Kill:
    """Signal to a process of a running command.

    Attributes:
        name: Name in the summary.
        signal: Signal to send.
        titles: Parts of the command line of the process; empty for the driver.
        statuses: Exit statuses with which the command may end.
    """

    name: str
    signal: signal.Signals
    titles: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (0,)

    def strike(self, command: Command, draw: random.Random) -> str | None:
        """Send the signal to one such process as soon as there is one. Returns which, None without one."""
        if not self.titles:
            pids = [command.pid] if command.is_running() else []
        else:
            command.wait(_TRAIN_SECONDS, until=lambda: bool(command.find(*self.titles)))
            pids = command.find(*self.titles)
        if not pids:
            return None
        pid = draw.choice(sorted(pids))
        try:
            os.kill(pid, self.signal)
        except ProcessLookupError:
            return None
        return f"process {pid}"


# A command that loses Ray may repair that itself, or end with one line and the status 1.
KILLS = (
    Kill("kill -9 of the driver", signal.SIGKILL, statuses=(-signal.SIGKILL,)),
    Kill("SIGTERM to the driver", signal.SIGTERM, statuses=(0, 143, -signal.SIGTERM)),
    Kill("SIGINT to the driver", signal.SIGINT, statuses=(0, 130, -signal.SIGINT)),
    Kill("kill -9 of a trial's process", signal.SIGKILL, ("ray::ImplicitFunc", "ray::run_trial")),
    Kill("kill -9 of Ray's raylet", signal.SIGKILL, ("raylet/raylet",), (0, 1)),
    Kill("kill -9 of Ray's GCS", signal.SIGKILL, ("gcs/gcs_server",), (0, 1)),
)


@dataclasses.dataclass(frozen=True)
class Damage:
    """Damage to the files of a study.

    Attributes:
        name: Name in the summary.
        apply: Does the damage. Returns what was damaged, None if the study has no such file yet.
    """

    name: str
    apply: Callable[[ChaosStudy, random.Random], str | None]


def _tear_journal(study: ChaosStudy, draw: random.Random) -> str | None:
    journal = study.root / "study.journal"
    if not journal.is_file():
        return None
    last = journal.read_bytes().splitlines()[-1]
    part = last[: draw.randrange(1, len(last))]
    name, tail = draw.choice([("half a line", part), ("zeros", b"\0" * 100), ("a blank line", b"\n")])
    with journal.open("ab") as stream:
        stream.write(tail)
    return f"{name} at its end"


def _damage_journal(study: ChaosStudy, draw: random.Random) -> str | None:
    journal = study.root / "study.journal"
    if not journal.is_file():
        return None
    kind = draw.choice(["deleted", "emptied", "a line in its middle overwritten"])
    if kind == "deleted":
        journal.unlink()
    elif kind == "emptied":
        journal.write_bytes(b"")
    else:
        lines = journal.read_bytes().splitlines(keepends=True)
        lines[draw.randrange(len(lines))] = b'{"op_code": 4, "worker\n'
        journal.write_bytes(b"".join(lines))
    return kind


def _damage_trial(study: ChaosStudy, draw: random.Random) -> str | None:
    files = [
        path for folder in study.trial_folders() for name in _TRIAL_FILES if (path := folder / name).is_file()
    ]
    return _damage(draw.choice(files), draw) if files else None


def _damage_study(study: ChaosStudy, draw: random.Random) -> str | None:
    files = [path for name in _STUDY_FILES for path in sorted(study.root.glob(name)) if path.is_file()]
    return _damage(draw.choice(files), draw) if files else None


def _damage_ledger(study: ChaosStudy, draw: random.Random) -> str | None:
    ledger = study.root / "ledger.json"
    return _damage(ledger, draw) if ledger.is_file() else None


def _damage(path: Path, draw: random.Random) -> str:
    kind = draw.choice(["truncated", "emptied", "deleted"])
    if kind == "deleted":
        path.unlink()
    else:
        size = path.stat().st_size
        # A new file: `best/` may share its bytes with the copy in the study's folder by a hard link.
        content = path.read_bytes()[: draw.randrange(1, max(2, size)) if kind == "truncated" else 0]
        path.unlink()
        path.write_bytes(content)
    return f"{path.parent.name}/{path.name} {kind}"


def _leave_lock(study: ChaosStudy, draw: random.Random) -> str | None:
    journal = study.root / "study.journal"
    if not journal.is_file():
        return None
    lock = journal.with_name("study.journal.lock")
    # The form of Optuna's own lock: a symbolic link to the journal. A kill at the wrong moment leaves it.
    if not os.path.lexists(lock):
        lock.symlink_to(journal)
    return lock.name


def _remove_cache(study: ChaosStudy, draw: random.Random) -> str | None:
    folders = sorted(path for path in study.cache.iterdir() if path.is_dir()) if study.cache.is_dir() else []
    if not folders:
        return None
    removed = draw.choice(folders)
    shutil.rmtree(removed)
    return f"{removed.name}/ deleted"


DAMAGES = (
    Damage("torn tail of the journal", _tear_journal),
    Damage("damaged or deleted journal", _damage_journal),
    Damage("damaged or deleted file of a trial", _damage_trial),
    Damage("damaged or deleted ledger", _damage_ledger),
    Damage("damaged or deleted other file of the study", _damage_study),
    Damage("lock that outlived its owner", _leave_lock),
    Damage("part of the cache deleted", _remove_cache),
)
FULL_DISK = "full disk"


class Ballast:
    """A file that fills a small disk up to some room.

    Args:
        disk: Mount point of the disk.
    """

    def __init__(self, disk: Path) -> None:
        self._disk, self._file = disk, disk / "ballast"

    def fill(self, room: int) -> str:
        """Leave `room` bytes free."""
        status = os.statvfs(self._disk)
        with self._file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(1, status.f_bavail * status.f_frsize - room))
        return f"{room // 1024} KiB free"

    def remove(self) -> None:
        """Free the disk."""
        self._file.unlink(missing_ok=True)


def kinds() -> Sequence[str]:
    """Return the names of all faults."""
    return [*(kill.name for kill in KILLS), *(damage.name for damage in DAMAGES), FULL_DISK]
