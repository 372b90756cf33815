"""Results of a study or a ladder as pandas tables.

    from evclip_ray import Study

    study = Study.load("studies/mine")
    study.trials.sort_values("val_loss").head()
    study.epochs.pivot(index="epoch", columns="trial", values="val_top1").plot()

Everything is read from the folder's files, also while the study is running. Nothing is written, and neither
videos nor weights are needed. Figures are in `evclip_ray.reports.figures`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from evclip_ray.artifacts import LEDGER, ArtifactError, read_json, read_ledger
from evclip_ray.formatting import brief_path, short
from evclip_ray.records import SPEED, SPEED_SHARES, TrialRecord
from evclip_ray.tuning.importance import recorded_importance
from evclip_ray.tuning.leaderboard import SCORES, best_of_each, leaderboard
from evclip_ray.tuning.study_folder import WRITTEN_AGAIN, StudyFolder
from evclip_ray.tuning.trial_folder import warn_once

if TYPE_CHECKING:
    from evclip_ray.tuning.tuner import Outcome

STEPS = "rungs"
"""Folder of the steps' studies, as earlier versions called them."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A study on disk.

    Example::

        study = Study.load("studies/mine")
        study.best["val_top1"]
        study.trials[["trial", "state", "val_top1", "optim.lr"]]

    Attributes:
        root: Folder of the study.
        ledger: Its `ledger.json`.
        outcome: How the call of `evclip_ray.tune` ended that returned this study; None for a loaded one.
    """

    root: Path
    ledger: dict[str, Any]
    outcome: "Outcome | None" = None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open the folder of a study.

        Raises:
            ArtifactError: It is not the folder of a study.
        """
        root = Path(path).expanduser()
        return cls(root, StudyFolder(root).ledger())

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name

    @functools.cached_property
    def _records(self) -> list[TrialRecord]:
        return list(StudyFolder(self.root).trials())

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial, best first: columns of `leaderboard.csv`, number, settings, and error.

        Scores are missing (NaN) for a trial without a finished epoch.
        """
        rows = leaderboard(self._records)
        if not rows:
            return pd.DataFrame(columns=["rank", "trial", "state", *SCORES, "epochs", "error"])
        table = pd.DataFrame([row.columns() for row in rows])
        # Rows without a score have zeros for the ranking, which must not enter a mean.
        table.loc[table["best_epoch"] == 0, [name for name in table if name in SCORES]] = math.nan
        table["number"] = table["trial"].str.extract(r"(\d+)$", expand=False).astype(int)
        table["settings"] = [
            ", ".join(f"{brief_path(path)} {short(value)}" for path, value in row.overrides.items())
            for row in rows
        ]
        # reindex fixes the order of the columns, also for settings that the first trials lack.
        overrides = pd.DataFrame([row.overrides for row in rows]).reindex(columns=self.searched)
        return table.join(overrides).assign(error=[row.error for row in rows])

    @functools.cached_property
    def searched(self) -> list[str]:
        """Dotted paths of the settings that the trials set, sorted."""
        return sorted({path for record in self._records for path in record.overrides})

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch of a trial: `trial`, `state`, `epoch` and the metrics in `history.jsonl`."""
        rows = [
            {"trial": record.trial, "state": str(record.state), **epoch.values}
            for record in self._records
            for epoch in record.history
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "state", "epoch", "val_top1"])

    @functools.cached_property
    def speed(self) -> dict[str, float]:
        """Median over the trials of each metric in `records.SPEED`; empty if no trial was measured."""
        speeds = self.trials.reindex(columns=list(SPEED_SHARES)).dropna(how="all")
        if speeds.empty:
            return {}
        medians = self.trials.reindex(columns=list(SPEED)).median()
        return {str(name): float(value) for name, value in medians.items() if not math.isnan(value)}

    @functools.cached_property
    def balanced(self) -> str | None:
        """Dotted path of the balanced choice of the search space; None without one."""
        searched = self.ledger.get("inputs", {}).get("search", {})
        return next((path for path, text in searched.items() if str(text).endswith(") balanced")), None)

    @functools.cached_property
    def by_value(self) -> pd.DataFrame:
        """One row per value of the balanced choice: trials, failed ones, and the best; empty without one."""
        if self.balanced is None:
            return pd.DataFrame()
        return pd.DataFrame(best_of_each(leaderboard(self._records), self.balanced))

    @property
    def best(self) -> dict[str, Any] | None:
        """Row of the best trial in `trials`; None while no trial has finished an epoch.

        `val_top1` is the best of all trials and epochs, which is optimistic. `corrected_top1` is corrected
        for that choice, with its interval in `corrected_top1_low` and `corrected_top1_high`. It is NaN if
        `corrected_note` has a reason.
        """
        scored = self.trials[self.trials["val_top1"].notna()]
        return None if scored.empty else dict(scored.iloc[0])

    @functools.cached_property
    def best_record(self) -> dict[str, Any]:
        """Content of `best/config.json`; empty if there is no best checkpoint."""
        path = self.root / "best" / "config.json"
        return _readable(path) if path.is_file() else {}

    @functools.cached_property
    def zero_shot(self) -> pd.DataFrame:
        """Scores of zero-shot CLIP: one row per set of conditions, with its file."""
        files = sorted((self.root / "zero_shot").glob("*.json"))
        scores = {path.relative_to(self.root).as_posix(): _readable(path) for path in files}
        return pd.DataFrame([{"file": file, **numbers} for file, numbers in scores.items() if numbers])

    @functools.cached_property
    def importance(self) -> pd.DataFrame:
        """Importance of each searched setting by Optuna; `status` has the reason where it is missing."""
        return pd.DataFrame(recorded_importance(StudyFolder(self.root).journal, leaderboard(self._records)))


def _readable(path: Path) -> dict[str, Any]:
    """Return a JSON file that a study writes again; empty if it is damaged."""
    try:
        return dict(read_json(path))
    except (ArtifactError, TypeError, ValueError) as problem:
        warn_once(f"{problem}. {WRITTEN_AGAIN}")
        return {}


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A ladder on disk: one study per step, and the tables over all steps.

    Example::

        ladder = Ladder.load("ladders/mine")
        ladder.table("ladder")[["rung", "val_top1", "inference_gmac"]]
        ladder.steps["vit_b16"].best

    Attributes:
        root: Folder of the ladder.
        ledger: Its `ledger.json`.
    """

    root: Path
    ledger: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open the folder of a ladder.

        Raises:
            ArtifactError: It is not the folder of a ladder.
        """
        root = Path(path).expanduser()
        return cls(root, read_ledger(root, "ladder"))

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name

    @functools.cached_property
    def steps(self) -> dict[str, Study]:
        """Studies of the steps that have begun, by name, in the ladder's order."""
        begun = {p.name: p for p in (self.root / STEPS).glob("*") if (p / LEDGER).is_file()}
        # ladder.csv has the order of the steps. Steps that began after it was written follow by name.
        named = [str(name) for name in self.table("ladder").get("rung", [])]
        order = [name for name in named if name in begun] + sorted(begun.keys() - set(named))
        return {name: Study.load(begun[name]) for name in order}

    def table(self, name: str) -> pd.DataFrame:
        """Return the table `NAME.csv` of the ladder; empty if it was not written."""
        path = self.root / f"{name}.csv"
        if not path.is_file() or path.stat().st_size == 0:
            return pd.DataFrame()
        # Only empty cells are missing: a step or label called "NA" stays text.
        return pd.read_csv(path, keep_default_na=False, na_values=[""])

    @functools.cached_property
    def fits(self) -> Mapping[str, Any]:
        """Content of `fits.json`, the fits over the steps; empty if there are none."""
        path = self.root / "fits.json"
        return _readable(path) if path.is_file() else {}

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """Trials of all steps; the column `rung` has the step."""
        return _stacked({name: study.trials for name, study in self.steps.items()})

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """Epochs of all steps; the column `rung` has the step."""
        return _stacked({name: study.epochs for name, study in self.steps.items()})

    @property
    def best(self) -> dict[str, Any] | None:
        """Row of the best trial of all steps, with the step as `rung`; None if no trial has a score."""
        scored = [{"rung": name, **study.best} for name, study in self.steps.items() if study.best]
        return max(scored, key=lambda row: (row["point_top1"], -row["val_loss"]), default=None)


def open_results(path: str | Path) -> Study | Ladder:
    """Open the folder of a study or a ladder, by its ledger.

    Raises:
        ArtifactError: It is the folder of neither.
    """
    root = Path(path).expanduser()
    kinds: dict[str, type[Study] | type[Ladder]] = {"study": Study, "ladder": Ladder}
    if (root / "trials").is_dir() and not StudyFolder(root).has_ledger:
        # A study whose ledger is lost or damaged: the error names the way to recover.
        return Study.load(root)
    ledger = read_json(root / LEDGER) if (root / LEDGER).is_file() else {}
    stage = ledger.get("stage") if isinstance(ledger, dict) else None
    if stage not in kinds:
        actual = f"but its ledger has the stage {stage!r}" if stage else f"but it has no {LEDGER}"
        raise ArtifactError(
            f"{root}: must be the folder of a study or a ladder, {actual}; give the --out of tune or scale"
        )
    return kinds[stage].load(root)


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    labelled = [table.assign(rung=name) for name, table in tables.items() if not table.empty]
    return pd.concat(labelled, ignore_index=True) if labelled else pd.DataFrame(columns=["rung", "trial"])
