"""The study of the chaos test: its command, its folder, and its result for the comparison."""

import collections
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from evclip_ray.records import SPEED

TRIALS, EPOCHS = 10, 4
_SPACE = {
    "fixed": {
        "data.world": {"classes": 4, "train_videos": 4, "val_videos": 3, "test_videos": 1},
        "view.num_frames": 4,
        "view.height": 72,
        "view.width": 72,
        "backbone.name": "debug",
        "backbone.pretrained": "random",
        "method.name": "ev_clip",
        "method.video_encoder.name": "swin3d_debug",
        "method.video_encoder.weights": "random",
        "optim.epochs": EPOCHS,
        "optim.batch_size": 4,
    },
    "search": {
        "optim.lr": {"loguniform": [1e-3, 1e-1]},
        "method.prompts": {"choice": ["both", "mask", "context"]},
        "method.mask.depth": {"int": [1, 3], "when": {"method.prompts": ["both", "mask"]}},
    },
    # The points of the random sampler follow from seed and trial number. No scheduler, because two trials run
    # at once: which of them ASHA stops depends on their order.
    "study": {"trials": TRIALS, "sampler": "random", "scheduler": "none", "seed": 3, "memory_gb": 0.5},
}
_MEASURED_TIMES = {"seconds", "train_seconds", *SPEED, "pid"}
"""Numbers of an epoch that differ between two equal runs."""
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names that `tempfile` makes of a prefix such as `.result.json.`"""


@dataclasses.dataclass(frozen=True)
class ChaosStudy:
    """A study in `root`, on the data in `cache`."""

    root: Path
    cache: Path
    space: Path

    @classmethod
    def create(cls, root: Path, *, cache: Path, space: Path) -> "ChaosStudy":
        """Write the search space and return the study, which has not started."""
        space.write_text(yaml.safe_dump(_SPACE, sort_keys=False))
        return cls(root, cache, space)

    def command(self) -> list[str]:
        """Return the command that begins and resumes the study."""
        main = "import sys; from evclip_ray.cli import main; sys.argv[0] = 'evclip-ray'; main()"
        return [sys.executable, "-c", main, "tune", str(self.space), "--out", str(self.root)]

    def trial_folders(self) -> list[Path]:
        """Return the folders of trials that have begun."""
        return sorted((self.root / "trials").glob("trial-*"))

    def result(self) -> "Result":
        """Return the result of a complete study."""
        points, epochs = {}, {}
        for folder in self.trial_folders():
            points[folder.name] = json.loads((folder / "point.json").read_text())["overrides"]
            lines = (folder / "history.jsonl").read_text().splitlines()
            epochs[folder.name] = [_comparable(json.loads(line)) for line in lines]
        ended = collections.Counter(
            trial.user_attrs.get("folder")
            for trial in self._optuna().trials
            if trial.state == optuna.trial.TrialState.COMPLETE
        )
        best = (self.root / "best" / "adapter.safetensors").read_bytes()
        return Result(points, epochs, dict(ended), best)

    def _optuna(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.root / "study.journal")))
        return optuna.load_study(study_name="evclip-ray", storage=storage)

    def temporary_files(self) -> list[str]:
        """Return the files and folders with a temporary name, which a complete study should not have."""
        found = (path for path in self.root.rglob(".*") if _TEMPORARY.fullmatch(path.name))
        return sorted(str(path.relative_to(self.root)) for path in found)


@dataclasses.dataclass(frozen=True)
class Result:
    """What must be equal to the undisturbed study.

    Attributes:
        points: Settings of each trial.
        epochs: Numbers of each epoch of each trial, without measured times.
        ended: How often the record has a trial as complete.
        best: Bytes of the best adapter.
    """

    points: dict[str, dict[str, Any]]
    epochs: dict[str, list[dict[str, Any]]]
    ended: dict[str | None, int]
    best: bytes

    def differences(self, other: "Result") -> list[str]:
        """Return one line for each way in which `other` differs from this result."""
        found = []
        for trial in sorted(self.points.keys() | other.points.keys()):
            if self.points.get(trial) != other.points.get(trial):
                found.append(f"{trial}: point {other.points.get(trial)} instead of {self.points.get(trial)}")
            elif self.epochs[trial] != other.epochs[trial]:
                numbers = [epoch["epoch"] for epoch in other.epochs[trial]]
                found.append(f"{trial}: other numbers, epochs {numbers}")
        for trial in sorted(self.points):
            if other.ended.get(trial) != 1:
                found.append(f"{trial}: complete {other.ended.get(trial, 0)} times in the record")
        if self.best != other.best:
            found.append("best/: other bytes")
        return found


def _comparable(epoch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in epoch.items() if name not in _MEASURED_TIMES}
