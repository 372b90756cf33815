"""Folder of a study.

    ledger.json          identity and objective of the study, the videos it was measured on, the studies it
                         was started from
    fixed.json           settings that all trials share
    ray.log              messages of Ray itself, if there were any
    videos/              where the decoded videos of each variant are
    study.journal        Optuna study (journal storage)
    trials/trial-0000/   point.json, history.jsonl, event files, best/, last/, result.json once it has ended
    zero_shot/           scores of zero-shot CLIP on the same validation views
    leaderboard.csv      trials, best first; written after each trial
    best.yaml, best/     experiment of the best trial, and its checkpoint: that of its best epoch, or of its
                         last one if the objective is another one than `best`

The leaderboard, the best trial and the journal are derived from the trial folders and can be written again
from them, see `recovery`. A damaged file of a trial is read from its copy: the history from `last/`, the
point and the state from the journal.
"""

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from evclip_ray.artifacts import LEDGER, ArtifactError, write_json, write_text
from evclip_ray.claimed_folder import ClaimedFolder
from evclip_ray.formatting import counted, shell
from evclip_ray.objective import BEST, LAST, OBJECTIVE, OF_OLD_STUDIES
from evclip_ray.records import LeaderboardRow, TrialRecord, TrialState, choice_lines
from evclip_ray.training.checkpoint import (
    HISTORY,
    copy_checkpoint,
    latest_checkpoint,
    previous_of,
    read_record,
)
from evclip_ray.training.checkpoint_record import FIXED
from evclip_ray.training.checksums import DamagedFile, check_checkpoint
from evclip_ray.tuning.journal import JournalNotes
from evclip_ray.tuning.leaderboard import as_csv, leaderboard
from evclip_ray.tuning.lost_ledger import check_trials, written_objectives
from evclip_ray.tuning.trial_folder import POINT, RESULT, read_trial, warn_once

WRITTEN_AGAIN = "The `evclip-ray tune` command of this study writes it again."
COMMAND = "command"
"""Key of the ledger of a study or a ladder: the typed command that left work undone, and resumes it."""

_JOURNAL = "study.journal"
_BEFORE_TRIALS = {LEDGER, _JOURNAL, "fixed.json", "videos", "rows", "zero_shot", "trials", "ray.log"}
_PREFIXES = (".", f"{_JOURNAL}.", "events.out.tfevents.")
"""Files of a study in which no trial has begun, and the beginnings of the names of others."""


class StudyFolder(ClaimedFolder):
    """Paths and records of one study on storage."""

    STAGE: ClassVar[str] = "study"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        # The leaderboard is written after each trial: without this, a study of a thousand trials would read
        # half a million histories.
        self._ended: dict[str, tuple[tuple[int, ...], TrialRecord | None]] = {}
        self.notes = JournalNotes(self.journal)

    def trial(self, name: str) -> Path:
        """Return the folder of a trial."""
        return self.root / "trials" / name

    def idle_seconds(self) -> float:
        """Return the seconds since a trial last finished an epoch, infinity if none has."""
        ends = [path.stat().st_mtime for path in self.root.glob(f"trials/*/{HISTORY}")]
        return time.time() - max(ends, default=-math.inf)

    @property
    def journal(self) -> Path:
        """Path of the Optuna journal."""
        return self.root / _JOURNAL

    @property
    def fixed(self) -> Path:
        """Path of the settings that all trials share."""
        return self.root / FIXED

    def videos(self, key: str) -> Path:
        """Return the file that describes the decoded videos of one variant."""
        return self.root / "videos" / f"{key}.json"

    def zero_shot(self, key: str) -> Path:
        """Return the file of the zero-shot scores under one set of conditions."""
        return self.root / "zero_shot" / f"{key}.json"

    def ledger(self) -> dict[str, Any]:
        """Return the ledger with all notes.

        Raises:
            ArtifactError: The folder has no ledger of a study, or it is damaged.
        """
        try:
            return super().ledger()
        except ArtifactError as problem:
            if self.has_ledger or not (self.root / "trials").is_dir():
                raise
            raise ArtifactError(f"{problem}. {WRITTEN_AGAIN}") from None

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Return whether the folder was claimed before with this identity, as `ClaimedFolder.check`.

        A lost ledger counts as none if the trials belong to this identity. `claim` then writes it again.

        Raises:
            ArtifactError: The folder belongs to another study or holds other files.
        """
        if self.has_ledger:
            return super().check(identity)
        if any((self.root / "trials").glob("trial-*")):
            check_trials(self.root, identity)
            return False
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        others = {name for name in names - _BEFORE_TRIALS if not name.startswith(_PREFIXES)}
        if not names & {LEDGER, _JOURNAL} or others:
            return super().check(identity)
        warn_once(f"{self.root / LEDGER}: is lost, and no trial has begun; the study begins again")
        return False

    @property
    def objective(self) -> str:
        """Objective of the study. Earlier versions did not record it and took the best epoch."""
        if self.has_ledger:
            return str(self.ledger().get(OBJECTIVE, OF_OLD_STUDIES))
        # The ledger of a study with trials is lost.
        written = written_objectives(self.root)
        return written.pop() if len(written) == 1 else OF_OLD_STUDIES

    def check_objective(self, objective: str) -> None:
        """Check that a study that was begun has this objective.

        Raises:
            ArtifactError: It has another one.
        """
        is_known = self.has_ledger or bool(written_objectives(self.root))
        if is_known and self.objective != objective:
            raise ArtifactError(
                f"{self.root}: its trials were compared by the objective {self.objective!r}, got "
                f"{objective!r}. Continue with `objective: {self.objective}` in the section `study`, or "
                f"--objective {self.objective} of `tune`, or begin a study with another --out and "
                f"{shell('--warm-start', self.root)}."
            )

    def trials(self) -> Iterator[TrialRecord]:
        """Yield the record of every trial that has begun, in order. Damaged files are logged."""
        objective = self.objective
        for folder in sorted((self.root / "trials").glob("trial-*")):
            record = self._read_trial(folder)
            if record is not None:
                # The best epoch of a run with `data.selection=last_epoch` is the last one by definition, so
                # that its score needs no correction for a choice among epochs.
                is_last = objective == BEST and record.last.values.get("selection") == "last_epoch"
                yield dataclasses.replace(record, objective=LAST if is_last else objective)

    def _read_trial(self, folder: Path) -> TrialRecord | None:
        """Return the record of one trial. An ended one is only read again if its files have changed."""
        result = folder / RESULT
        if not result.is_file():
            return read_trial(folder, self.notes)
        files = (result, folder / HISTORY, folder / POINT)
        # A continued trial changes these files again, which invalidates the stored record.
        modified = tuple(path.stat().st_mtime_ns for path in files if path.is_file())
        if folder.name not in self._ended or self._ended[folder.name][0] != modified:
            self._ended[folder.name] = modified, read_trial(folder, self.notes)
        return self._ended[folder.name][1]

    def begin(
        self,
        name: str,
        overrides: Mapping[str, Any],
        *,
        params: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the point of a trial before it starts; the state of a paused trial becomes running.

        Args:
            name: Folder of the trial.
            overrides: Its point.
            params: The point as Optuna drew it, from which a lost journal is written again.
            attributes: User attributes of its Optuna trial.
        """
        # Removed before the point is written: a trial without this file counts as running.
        (self.trial(name) / RESULT).unlink(missing_ok=True)
        point: dict[str, Any] = {"overrides": dict(overrides)}
        if params is not None:
            point |= {"params": dict(params), "attributes": dict(attributes or {})}
        if self.has_ledger:
            # A lost ledger is written again only for the study that these trials belong to.
            ledger = self.ledger()
            point["study"] = {"key": ledger["key"], OBJECTIVE: ledger.get(OBJECTIVE, OF_OLD_STUDIES)}
        write_json(self.trial(name) / POINT, point)

    def finish(self, name: str, state: TrialState, error: str | None = None) -> None:
        """Write the state of a trial that ended or is paused, then the leaderboard and the best trial."""
        write_json(self.trial(name) / RESULT, {"state": str(state), "error": error})
        if TrialState(state).has_ended:
            # A stopped run keeps the checkpoint before its last one, which nothing resumes from any more.
            shutil.rmtree(previous_of(self.trial(name) / "last"), ignore_errors=True)
        self.write_leaderboard()

    def write_leaderboard(self) -> list[LeaderboardRow]:
        """Write `leaderboard.csv`, `best.yaml` and `best/` from the trial folders; return the rows."""
        rows = leaderboard(self.trials())
        if not rows:
            return rows
        write_text(self.root / "leaderboard.csv", as_csv(rows))
        self._write_best(rows)
        return rows

    def _write_best(self, rows: Sequence[LeaderboardRow]) -> None:
        for row in rows:
            checkpoint = self.checkpoint(row)
            if checkpoint is None:
                continue
            try:
                copy_checkpoint(checkpoint, self.root / "best")
                record = read_record(checkpoint)
            except ArtifactError as problem:
                # The next best trial must not pass for the best one.
                warn_once(f"{problem}; `best/` and `best.yaml` are not written. Run the study again.")
                return
            seeds = row.point_seeds
            mean = f" (mean of {counted(seeds, 'seed')} {row.point_top1:.3f})" if seeds > 1 else ""
            lines = [
                f"The best of {counted(len(rows), 'trial')}: {row.trial}, validation top-1 "
                f"{row.val_top1:.3f}{mean}."
            ]
            lines += [f"{name}: {score}" for name, score in choice_lines(row.columns()).items()]
            lines += ["Train it again:  evclip-ray train best.yaml"]
            head = "".join(f"# {line}\n" for line in lines)
            write_text(self.root / "best.yaml", head + yaml.safe_dump(record["experiment"], sort_keys=False))
            return

    def checkpoint(self, row: LeaderboardRow) -> Path | None:
        """Return the checkpoint that the row's scores describe, or None."""
        trial = self.trial(row.trial)
        # A trial that diverged in its first epoch has none.
        if self.objective == BEST:
            return latest_checkpoint(trial / "best")
        # A running trial replaces `last/` in every epoch. The last checkpoint of a diverged trial is useless;
        # its row has no score.
        is_usable = row.state.has_final_score and row.best_epoch
        return latest_checkpoint(trial / "last") if is_usable else None


@contextlib.contextmanager
def name_recovery(checkpoint: Path) -> Iterator[None]:
    """Add the way to recover to errors of the block, if `checkpoint` is a damaged `best/` of a study.

    Raises:
        ArtifactError: As the block raises it, with the way to recover.
    """
    try:
        yield
    except ArtifactError as problem:
        if (checkpoint.parent / "trials").is_dir():
            try:
                check_checkpoint(checkpoint)
            except DamagedFile:
                raise ArtifactError(f"{problem}. {WRITTEN_AGAIN}") from None
        raise
