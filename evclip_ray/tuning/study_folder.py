"""Folder of a study.

    ledger.json          identity of the study, the videos it was measured on, the studies it was started from
    fixed.json           settings that all trials share
    videos/              where the decoded videos of each variant are
    study.journal        Optuna study (journal storage)
    trials/trial-0000/   point.json, history.jsonl, event files, best/, last/, result.json once it has ended
    zero_shot/           scores of zero-shot CLIP on the same validation views
    leaderboard.csv      trials, best first; written after each trial
    best.yaml, best/     experiment and checkpoint of the best trial

The leaderboard and the best trial are derived from the trial folders and can be written again from them.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from evclip_ray.artifacts import ArtifactError, read_history, read_json, replacing, write_json, write_text
from evclip_ray.claimed_folder import ClaimedFolder
from evclip_ray.records import EpochMetrics, LeaderboardRow, TrialRecord, TrialState
from evclip_ray.training.checkpoint import HISTORY, latest_checkpoint, read_record
from evclip_ray.tuning.leaderboard import as_csv, leaderboard

OBJECTIVE = "objective"
"""The reported metric that is maximised: the best validation top-1 up to that epoch."""


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

    def trials(self) -> Iterator[TrialRecord]:
        """Yield the record of every trial that has begun, in order."""
        for folder in sorted((self.root / "trials").glob("trial-*")):
            if (folder / "point.json").is_file():
                yield self._read_trial(folder)

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
            # The first row may lack a checkpoint: a trial that diverged in its first epoch has none.
            checkpoint = latest_checkpoint(self.trial(row.trial) / "best")
            if checkpoint is None:
                continue
            record = read_record(checkpoint)
            seeds = row.point_seeds
            mean = f" (mean of {seeds} seeds {row.point_top1:.3f})" if seeds > 1 else ""
            head = (
                f"# The best of {len(rows)} trials: {row.trial}, "
                f"validation top-1 {row.val_top1:.3f}{mean}.\n"
                "# Train it again:  evclip-ray train best.yaml\n"
            )
            write_text(self.root / "best.yaml", head + yaml.safe_dump(record["experiment"], sort_keys=False))
            _copy_folder(checkpoint, self.root / "best")
            return


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a checkpoint file by file, each one atomically."""
    for item in sorted(source.iterdir()):
        with replacing(target / item.name) as temporary:
            shutil.copyfile(item, temporary)


def _record(folder: Path, result: Mapping[str, Any]) -> TrialRecord:
    state = result.get("state", TrialState.RUNNING)
    if state not in set(TrialState):
        raise ArtifactError(f"{folder / 'result.json'}: unknown state {state!r}; use a newer evclip-ray")
    return TrialRecord(
        folder.name,
        read_json(folder / "point.json")["overrides"],
        TrialState(state),
        result.get("error"),
        tuple(EpochMetrics.from_record(record) for record in read_history(folder / HISTORY)),
    )
