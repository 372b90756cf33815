"""Folder of a study.

    ledger.json          identity and objective of the study, the videos it was measured on, the studies it
                         was started from
    fixed.json           settings that all trials share
    videos/              where the decoded videos of each variant are
    study.journal        Optuna study (journal storage)
    trials/trial-0000/   point.json, history.jsonl, event files, best/, last/, result.json once it has ended
    zero_shot/           scores of zero-shot CLIP on the same validation views
    leaderboard.csv      trials, best first; written after each trial
    best.yaml, best/     experiment of the best trial, and its checkpoint: that of its best epoch, or of its
                         last one if the objective is another one than `best`

The leaderboard and the best trial are derived from the trial folders and can be written again from them.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from evclip_ray.artifacts import (
    LEDGER,
    ArtifactError,
    read_history,
    read_json,
    replacing,
    write_json,
    write_text,
)
from evclip_ray.claimed_folder import ClaimedFolder
from evclip_ray.objective import BEST, LAST, OBJECTIVE, OF_OLD_STUDIES
from evclip_ray.records import EpochMetrics, LeaderboardRow, TrialRecord, TrialState, choice_lines
from evclip_ray.training.checkpoint import HISTORY, OPTIMIZER, latest_checkpoint, read_record
from evclip_ray.training.per_video_scores import EPOCHS_FILE, EpochAnswers
from evclip_ray.tuning.choice import AnsweredTrial
from evclip_ray.tuning.leaderboard import as_csv, leaderboard

log = logging.getLogger(__name__)


class StudyFolder(ClaimedFolder):
    """Paths and records of one study on storage."""

    STAGE: ClassVar[str] = "study"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        # The leaderboard is written after each trial: without this, a study of a thousand trials would read
        # half a million histories.
        self._ended: dict[str, tuple[tuple[int, ...], TrialRecord]] = {}

    def trial(self, name: str) -> Path:
        """Return the folder of a trial."""
        return self.root / "trials" / name

    @property
    def journal(self) -> Path:
        """Path of the Optuna journal."""
        return self.root / "study.journal"

    @property
    def fixed(self) -> Path:
        """Path of the settings that all trials share."""
        return self.root / "fixed.json"

    def videos(self, key: str) -> Path:
        """Return the file that describes the decoded videos of one variant."""
        return self.root / "videos" / f"{key}.json"

    def zero_shot(self, key: str) -> Path:
        """Return the file of the zero-shot scores under one set of conditions."""
        return self.root / "zero_shot" / f"{key}.json"

    @property
    def objective(self) -> str:
        """Objective of the study. Earlier versions did not record it and took the best epoch."""
        is_claimed = (self.root / LEDGER).is_file()
        return str(self.ledger().get(OBJECTIVE, OF_OLD_STUDIES)) if is_claimed else OF_OLD_STUDIES

    def check_objective(self, objective: str) -> None:
        """Check that a study that was begun has this objective.

        Raises:
            ArtifactError: It has another one.
        """
        if self.objective != objective and (self.root / LEDGER).is_file():
            raise ArtifactError(
                f"{self.root}: its trials were compared by the objective {self.objective!r}, got "
                f"{objective!r}. Continue with `objective: {self.objective}` in the section `study`, or "
                f"--objective {self.objective} of `tune`, or begin a study with another --out and "
                f"--warm-start {self.root}."
            )

    def trials(self) -> Iterator[TrialRecord]:
        """Yield the record of every trial that has begun, in order."""
        objective = self.objective
        for folder in sorted((self.root / "trials").glob("trial-*")):
            if (folder / "point.json").is_file():
                record = self._read_trial(folder)
                # The best epoch of a run with `data.selection=last_epoch` is the last one by definition, so
                # that its score needs no correction for a choice among epochs.
                is_last = objective == BEST and record.last.values.get("selection") == "last_epoch"
                yield dataclasses.replace(record, objective=LAST if is_last else objective)

    def _read_trial(self, folder: Path) -> TrialRecord:
        """Return the record of one trial. An ended one is only read again if its files have changed."""
        result = folder / "result.json"
        if not result.is_file():
            return _record(folder, {})
        files = (result, folder / HISTORY)
        # A continued trial changes both files again, which invalidates the stored record.
        modified = tuple(path.stat().st_mtime_ns for path in files if path.is_file())
        if folder.name not in self._ended or self._ended[folder.name][0] != modified:
            self._ended[folder.name] = modified, _record(folder, read_json(result))
        return self._ended[folder.name][1]

    def begin(self, name: str, overrides: Mapping[str, Any]) -> None:
        """Write the point of a trial before it starts; the state of a paused trial becomes running."""
        # Removed before the point is written: a trial without this file counts as running.
        (self.trial(name) / "result.json").unlink(missing_ok=True)
        write_json(self.trial(name) / "point.json", {"overrides": dict(overrides)})

    def finish(self, name: str, state: TrialState, error: str | None = None) -> None:
        """Write the state of a trial that ended or is paused, then the leaderboard and the best trial."""
        write_json(self.trial(name) / "result.json", {"state": str(state), "error": error})
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
            checkpoint = self._checkpoint(row)
            if checkpoint is None:
                continue
            record = read_record(checkpoint)
            seeds = row.point_seeds
            mean = f" (mean of {seeds} seeds {row.point_top1:.3f})" if seeds > 1 else ""
            lines = [
                f"The best of {len(rows)} trials: {row.trial}, validation top-1 {row.val_top1:.3f}{mean}."
            ]
            lines += [f"{name}: {score}" for name, score in choice_lines(row.columns()).items()]
            lines += ["Train it again:  evclip-ray train best.yaml"]
            head = "".join(f"# {line}\n" for line in lines)
            write_text(self.root / "best.yaml", head + yaml.safe_dump(record["experiment"], sort_keys=False))
            _copy_folder(checkpoint, self.root / "best")
            return

    def _checkpoint(self, row: LeaderboardRow) -> Path | None:
        """Return the checkpoint that the row's scores describe, or None."""
        # A trial that diverged in its first epoch has none.
        if self.objective == BEST:
            return latest_checkpoint(self.trial(row.trial) / "best")
        # A running trial replaces `last/` in every epoch. The last checkpoint of a diverged trial is useless;
        # its row has no score.
        is_usable = row.state.has_final_score and row.best_epoch
        return latest_checkpoint(self.trial(row.trial) / "last") if is_usable else None


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a checkpoint file by file, each one atomically."""
    for item in sorted(source.iterdir()):
        # A resumed run alone needs these files of `last/`.
        if item.name in (OPTIMIZER, HISTORY, EPOCHS_FILE):
            continue
        with replacing(target / item.name) as temporary:
            shutil.copyfile(item, temporary)


def _record(folder: Path, result: Mapping[str, Any]) -> TrialRecord:
    state = result.get("state", TrialState.RUNNING)
    if state not in set(TrialState):
        raise ArtifactError(f"{folder / 'result.json'}: unknown state {state!r}; use a newer evclip-ray")
    return AnsweredTrial(
        folder.name,
        read_json(folder / "point.json")["overrides"],
        TrialState(state),
        result.get("error"),
        # Read before the answers, which are written first: every epoch of the history then has its answers.
        tuple(EpochMetrics.from_record(record) for record in read_history(folder / HISTORY)),
        answers=_read_answers(folder),
    )


def _read_answers(folder: Path) -> EpochAnswers | None:
    checkpoint = latest_checkpoint(folder / "last")
    try:
        return None if checkpoint is None else EpochAnswers.read(checkpoint)
    except ArtifactError as problem:
        # A running trial replaces the checkpoint, also while it is read. The leaderboard goes without.
        log.warning("%s", problem)
        return None
