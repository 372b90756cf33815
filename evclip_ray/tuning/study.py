"""A study's folder: what it holds, whom it belongs to, and the table that people read.

    ledger.json          what the study is; another study is refused here
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
import csv
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

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
from evclip_ray.evaluation.intervals import wilson_interval
from evclip_ray.training.checkpoint import latest_checkpoint, read_record

FINISHED = ("complete", "stopped", "diverged", "failed")


class StudyFolder:
    """Paths and records of one study on storage."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
        if self.root.is_file() or (self.root.is_dir() and any(self.root.iterdir())):
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
        self._check_writable()
        if not begun:
            write_ledger(self.root, "study", inputs=identity)

    def _check_writable(self) -> None:
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
            if not (folder / "point.json").is_file():
                continue
            ended = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
            yield {
                "trial": folder.name,
                "overrides": read_json(folder / "point.json")["overrides"],
                "state": ended.get("state", "running"),
                "error": ended.get("error"),
                "history": _history(folder),
            }

    def begin(self, name: str, overrides: Mapping[str, Any]) -> None:
        """Write the point of a trial, before anything of it can fail."""
        write_json(self.trial(name) / "point.json", {"overrides": dict(overrides)})

    def finish(self, name: str, state: str, error: str | None = None) -> None:
        """Write how a trial ended, and the tables that follow from it."""
        write_json(self.trial(name) / "result.json", {"state": state, "error": error})
        self.write_leaderboard()

    def leaderboard(self) -> list[dict[str, Any]]:
        """A row a trial, best first: validation top-1, then validation loss."""
        rows = [self._row(trial) for trial in self.trials()]
        rows.sort(key=lambda row: (-row["val_top1"], row["val_loss"], row["trial"]))
        for rank, row in enumerate(rows, start=1):
            row["rank"] = rank
        return rows

    def _row(self, trial: Mapping[str, Any]) -> dict[str, Any]:
        history = trial["history"]
        last = history[-1] if history else {}
        best = history[last["best_epoch"] - 1] if last.get("best_epoch") else {}
        top1, videos = best.get("val_top1", 0.0), last.get("val_videos", 0)
        low, high = wilson_interval(round(top1 * videos), videos)
        return {
            "rank": 0,
            "trial": trial["trial"],
            "state": trial["state"],
            "val_top1": top1,
            "val_top1_low": low,
            "val_top1_high": high,
            "zero_shot_top1": last.get("zero_shot_top1", math.nan),
            "val_top5": best.get("val_top5", 0.0),
            "val_loss": best.get("val_loss", math.inf),
            "best_epoch": last.get("best_epoch", 0),
            "epochs": last.get("epoch", 0),
            "last_top1": last.get("val_top1", 0.0),
            "leaking_rows": last.get("leaking_rows", 0),
            "train_seconds": round(sum(row.get("train_seconds", 0.0) for row in history), 3),
            "seconds": round(sum(row["seconds"] for row in history), 3),
            "overrides": dict(trial["overrides"]),
            "error": trial["error"],
        }

    def write_leaderboard(self) -> list[dict[str, Any]]:
        """Write `leaderboard.csv`, `best.yaml` and `best/` from the trial folders; returns the rows."""
        rows = self.leaderboard()
        if not rows:
            return rows
        searched = sorted({path for row in rows for path in row["overrides"]})
        columns = [c for c in rows[0] if c not in {"overrides", "error"}]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, *searched, "error"])
        for row in rows:
            writer.writerow(
                [_cell(row[c]) for c in columns]
                + [_cell(row["overrides"].get(path, "")) for path in searched]
                + [row["error"] or ""]
            )
        write_text(self.root / "leaderboard.csv", text.getvalue())
        self._write_best(rows)
        return rows

    def _write_best(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            checkpoint = latest_checkpoint(self.trial(row["trial"]) / "best")
            if checkpoint is None:
                continue
            record = read_record(checkpoint)
            head = (
                f"# The best of {len(rows)} trials: {row['trial']}, validation top-1 {row['val_top1']:.3f}.\n"
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


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.jsonl"
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return []


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
