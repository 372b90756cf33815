"""What a study or a ladder left, as pandas frames and figures: in a notebook, and for the report.

    from evclip_ray.results import Study

    study = Study.load("studies/mine")
    study.trials.sort_values("val_loss").head()
    study.figures()["slice_optim_lr"]

Everything is read from the folder's own files, while the study runs too; nothing is written, and neither
videos nor weights are needed.
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
from evclip_ray.tuning.importance import recorded_importance
from evclip_ray.tuning.leaderboard import SCORES, leaderboard
from evclip_ray.tuning.study_folder import StudyFolder

if TYPE_CHECKING:
    from evclip_ray.reports.document import Drawing
    from evclip_ray.tuning.tuner import Outcome

RUNGS = "rungs"


@dataclasses.dataclass(frozen=True)
class Study:
    """One study. `root`: its folder, wherever it is now; `ledger`: what it is.

    `outcome`: how the call of `evclip_ray.tune` ended that returned this study; None for a loaded one.
    """

    root: Path
    ledger: dict[str, Any]
    outcome: "Outcome | None" = None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open a study's folder.

        Raises:
            ArtifactError: there is no study there.
        """
        root = Path(path).expanduser()
        return cls(root, read_ledger(root, "study"))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.root.resolve().name

    @functools.cached_property
    def _records(self) -> list[dict[str, Any]]:
        return list(StudyFolder(self.root).trials())

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """A row a trial, best first: the leaderboard's columns, one a searched path, and `error`.

        Scores of a trial that has no finished epoch are missing, as they are in no way zero.
        """
        rows = leaderboard(self._records)
        frame = pd.DataFrame([{**row, **row["overrides"]} for row in rows])
        if frame.empty:
            return pd.DataFrame(columns=["rank", "trial", "state", *SCORES, "epochs", "error"])
        unscored = frame["best_epoch"] == 0
        frame.loc[unscored, [name for name in frame if name in SCORES]] = math.nan
        frame["number"] = frame["trial"].str.extract(r"(\d+)$", expand=False).astype(int)
        frame["settings"] = self._settings(frame)
        order = [c for c in frame if c not in {"overrides", "error", *self.searched}]
        return frame[[*order, *self.searched, "error"]]

    def _settings(self, frame: pd.DataFrame) -> list[str]:
        """The settings of each row in a line, for people."""
        return [
            ", ".join(f"{brief_path(path)} {short(value)}" for path, value in row.items())
            for row in frame["overrides"]
        ]

    @functools.cached_property
    def searched(self) -> list[str]:
        """The dotted paths that differ from trial to trial."""
        return sorted({path for record in self._records for path in record["overrides"]})

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """A row an epoch of a trial: `trial`, `state`, `epoch` and everything that the loop recorded."""
        rows = [
            {"trial": record["trial"], "state": record["state"], **epoch}
            for record in self._records
            for epoch in record["history"]
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "state", "epoch", "val_top1"])

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial's row of `trials`, or None while no trial has finished an epoch."""
        scored = self.trials[self.trials["val_top1"].notna()]
        return None if scored.empty else dict(scored.iloc[0])

    @functools.cached_property
    def best_record(self) -> dict[str, Any]:
        """What the best trial's checkpoint says of itself; empty where there is none."""
        path = self.root / "best" / "config.json"
        return dict(read_json(path)) if path.is_file() else {}

    @functools.cached_property
    def zero_shot(self) -> pd.DataFrame:
        """A row for each set of conditions that zero-shot CLIP was scored under, with its file."""
        files = sorted((self.root / "zero_shot").glob("*.json"))
        return pd.DataFrame(
            [{"file": path.relative_to(self.root).as_posix(), **read_json(path)} for path in files]
        )

    @functools.cached_property
    def importance(self) -> pd.DataFrame:
        """A row a searched path: how much it mattered, by Optuna, or the `status` that says why not."""
        return pd.DataFrame(recorded_importance(StudyFolder(self.root).journal, leaderboard(self._records)))

    def figures(self) -> "dict[str, Drawing]":
        """The report's figures, by name; a notebook shows each."""
        from evclip_ray.reports.charts.study import study_charts

        return {chart.name: chart.altair() for chart in study_charts(self)}


@dataclasses.dataclass(frozen=True)
class Ladder:
    """One study a rung, and what was computed over them. `root`: its folder; `ledger`: what it is."""

    root: Path
    ledger: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open a ladder's folder.

        Raises:
            ArtifactError: there is no ladder there.
        """
        root = Path(path).expanduser()
        return cls(root, read_ledger(root, "ladder"))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.root.resolve().name

    @functools.cached_property
    def rungs(self) -> dict[str, Study]:
        """The studies of the rungs that have begun, in the ladder's order."""
        begun = {p.name: p for p in (self.root / RUNGS).glob("*") if (p / LEDGER).is_file()}
        named = [str(name) for name in self.table("ladder").get("rung", [])]
        order = [name for name in named if name in begun] + sorted(begun.keys() - set(named))
        return {name: Study.load(begun[name]) for name in order}

    def table(self, name: str) -> pd.DataFrame:
        """A table of the ladder, `NAME.csv`; empty where it was not written."""
        path = self.root / f"{name}.csv"
        if not path.is_file() or path.stat().st_size == 0:
            return pd.DataFrame()
        return pd.read_csv(path, keep_default_na=False, na_values=[""])

    @functools.cached_property
    def fits(self) -> Mapping[str, Any]:
        """The fits over the rungs; empty where there are none."""
        path = self.root / "fits.json"
        return dict(read_json(path)) if path.is_file() else {}

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """The trials of all rungs, with the column `rung`."""
        return _stacked({name: study.trials for name, study in self.rungs.items()})

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """The epochs of all rungs, with the column `rung`."""
        return _stacked({name: study.epochs for name, study in self.rungs.items()})

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial of all rungs."""
        scored = [{"rung": name, **study.best} for name, study in self.rungs.items() if study.best]
        return max(scored, key=lambda row: (row["point_top1"], -row["val_loss"]), default=None)

    def figures(self) -> "dict[str, Drawing]":
        """The report's figures over the rungs, by name."""
        from evclip_ray.reports.charts.ladder import ladder_charts

        return {chart.name: chart.altair() for chart in ladder_charts(self)}


def open_results(path: str | Path) -> Study | Ladder:
    """A study or a ladder, by what the folder's ledger says.

    Raises:
        ArtifactError: neither.
    """
    root = Path(path).expanduser()
    kinds: dict[str, type[Study] | type[Ladder]] = {"study": Study, "ladder": Ladder}
    found = read_json(root / LEDGER) if (root / LEDGER).is_file() else {}
    stage = found.get("stage") if isinstance(found, dict) else None
    if stage not in kinds:
        says = f"its ledger says {stage!r}" if stage else f"there is no {LEDGER} in it"
        raise ArtifactError(
            f"{root}: must be the folder of a study or a ladder, {says}; give the --out of tune or scale"
        )
    return kinds[stage].load(root)


def _stacked(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    labelled = [frame.assign(rung=name) for name, frame in frames.items() if not frame.empty]
    return pd.concat(labelled, ignore_index=True) if labelled else pd.DataFrame(columns=["rung", "trial"])
