"""Disk space that the remaining trials of a study need."""

import math
from pathlib import Path

from evclip_ray.formatting import binary_size, counted
from evclip_ray.training.checkpoint import ADAPTER
from evclip_ray.tuning.study_folder import StudyFolder

_BLOCK_BYTES = 4096


def needed_space(folder: StudyFolder, trials: float, concurrent: int) -> str:
    """Return the space that the remaining trials need; empty if no trial has a checkpoint yet.

    Args:
        folder: Folder of the study.
        trials: Number of trials in total; infinite if only the time limits them.
        concurrent: Number of trials that run at the same time.
    """
    # From the folders: a full disk may have cut the last line of the journal.
    records = list(folder.trials())
    sizes = {trial.trial: _num_bytes(folder.trial(trial.trial)) for trial in records}
    ended = [sizes.pop(trial.trial) for trial in records if trial.state.has_ended]
    missing = trials - len(ended)
    adapters = [path.stat().st_size for path in folder.root.glob(f"trials/*/*/{ADAPTER}")]
    if missing <= 0 or not adapters:
        return ""
    # An ended trial keeps its best and its last adapter. While it runs, the last checkpoint has the two
    # moments of AdamW too, the one before it is kept, and the next one is written: 1 + 3 x 3 adapters.
    whole = max(ended, default=2 * max(adapters))
    running = 8 * max(adapters)
    if not math.isfinite(missing):
        return f"about {binary_size(whole + running)} per trial"
    needed = whole * missing + running * min(concurrent, missing) - sum(sizes.values())
    return f"about {binary_size(max(needed, running))} for {counted(missing, 'trial')}"


def _num_bytes(folder: Path) -> int:
    """Return the space that a folder takes: files take whole blocks of a disk."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES for size in sizes)
