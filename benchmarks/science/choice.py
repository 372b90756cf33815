"""Search for the settings that all claims share, on videos of its own.

The videos are those of the claims' clutter drawn with another seed, and the best trial is the one with the
highest validation accuracy in its last epoch. `settings.py` has the result.

Run in benchmarks/: python -m science.choice [--out FOLDER] [--trials 12]. The same command continues.
"""

import argparse
from pathlib import Path
from typing import Any

import evclip_ray
from evclip_ray.tuning.search_space import SearchSpace

from .settings import BASE, METHODS, WorldSet

SEED = 1
VAL_VIDEOS = 6
_HERE = Path(__file__).resolve().parents[2]


def space() -> SearchSpace:
    """Return the search space: EV-CLIP with both prompts in clutter."""
    searched: dict[str, Any] = {
        "optim.lr": {"loguniform": [5e-4, 8e-3]},
        "optim.batch_size": {"choice": [8, 16]},
        "optim.scalar_lr_factor": {"choice": [3, 10, 30]},
    }
    own = {
        "data.selection": "validation",
        "data.world.val_videos": VAL_VIDEOS,
        "data.world.test_videos": 1,
        "data.world.seed": SEED,
    }
    fixed = {**BASE, **METHODS["both"], **WorldSet("clutter").settings, **own}
    return SearchSpace.load(
        "choice",
        {
            "fixed": {path: value for path, value in fixed.items() if path not in searched},
            "search": searched,
            "study": {"objective": "last", "grace_epochs": 8},
        },
    )


def main() -> None:
    """Run the search and print its leaderboard."""
    parser = argparse.ArgumentParser(prog="science.choice", description=__doc__)
    parser.add_argument("--out", type=Path, default=_HERE / "runs" / "science_choice")
    parser.add_argument("--trials", type=int, default=12)
    options = parser.parse_args()
    study = evclip_ray.tune(space(), out=options.out, trials=options.trials)
    columns = ["trial", "val_top1", *(f"config/{path}" for path in space().search)]
    print(study.trials.filter(columns).to_string())


if __name__ == "__main__":
    main()
