"""Record of a trial as its folder has it, with the copies that replace damaged files.

point.json       the point, from the journal if it is damaged or missing
result.json      how the trial ended, from the journal if it is damaged or missing
history.jsonl    metrics of each epoch, from `last/` if it is damaged or shorter
"""

import logging
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError, read_history, read_json
from evclip_ray.config import flatten
from evclip_ray.formatting import counted
from evclip_ray.records import EpochMetrics, TrialRecord, TrialState
from evclip_ray.training.checkpoint import CONFIG, HISTORY, kept_checkpoints, latest_checkpoint
from evclip_ray.training.checksums import check_content, read_checksums
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.per_video_scores import EpochAnswers
from evclip_ray.tuning.choice import AnsweredTrial
from evclip_ray.tuning.journal import JournalNotes

log = logging.getLogger(__name__)
POINT, RESULT, ERROR = "point.json", "result.json", "error.txt"
_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, once in this process. Commands read the trials of a study many times."""
    if message not in _warned:
        _warned.add(message)
        log.warning("%s", message)


def read_trial(folder: Path, notes: JournalNotes) -> TrialRecord | None:
    """Return the record of a trial; None if it has not begun or its point is lost.

    A trial that has ended and whose history is lost counts as running, so that the study trains it again.

    Args:
        folder: Folder of the trial.
        notes: Journal of the study.

    Raises:
        ArtifactError: A newer version wrote its state.
    """
    overrides = read_point(folder, notes)
    if overrides is None:
        return None
    state, error = _read_state(folder, notes)
    # Read before the answers, which are written first: every epoch of the history then has its answers.
    history = _read_epochs(folder, has_ended=state.has_ended)
    if history and history[-1].diverged and state is TrialState.COMPLETE:
        state = TrialState.DIVERGED
    if state.has_final_score and not history:
        warn_once(f"{folder / HISTORY}: is lost, so that the trial counts as not finished")
        state = TrialState.RUNNING
    return AnsweredTrial(folder.name, overrides, state, error, history, answers=_read_answers(folder))


def read_fields(folder: Path, name: str = POINT) -> dict[str, Any]:
    """Return a JSON file of a trial; empty if it is damaged or missing."""
    try:
        fields = read_json(folder / name)
    except ArtifactError:
        return {}
    return fields if isinstance(fields, dict) else {}


def read_point(folder: Path, notes: JournalNotes) -> dict[str, Any] | None:
    """Return the point of a trial; None if it has not begun or its point is lost."""
    written = read_fields(folder).get("overrides")
    if isinstance(written, dict):
        return written
    # Written before everything else: a folder with nothing in it was about to begin.
    if not any(not path.name.startswith(".") for path in folder.iterdir()):
        return None
    overrides = notes.overrides(folder.name) or _point_of_checkpoint(folder, notes)
    if overrides is None:
        warn_once(f"{folder / POINT}: is damaged or missing, and the journal does not have the point")
    else:
        warn_once(f"{folder / POINT}: is damaged or missing; its point is read from the journal")
    return overrides


def _point_of_checkpoint(folder: Path, notes: JournalNotes) -> dict[str, Any] | None:
    """Return the point of a trial of an earlier version, whose journal has the searched settings only."""
    # The name of an alternative ends with its conditions.
    searched = {name.split(" when ")[0] for name in notes.params(folder.name)}
    for path in sorted(folder.glob(f"*/{CONFIG}")):
        try:
            settings = flatten(read_json(path)["experiment"])
        except (ArtifactError, KeyError, TypeError):
            continue
        if searched and searched <= settings.keys():
            fixed = flatten(read_fields(folder.parents[1], "fixed.json"))
            seed = fixed.get("seed", ExperimentConfig.model_fields["seed"].default)
            point = {name: settings[name] for name in sorted(searched)}
            return point if settings["seed"] == seed else {**point, "seed": settings["seed"]}
    return None


def _read_state(folder: Path, notes: JournalNotes) -> tuple[TrialState, str | None]:
    path, result = folder / RESULT, read_fields(folder, RESULT)
    state, error = result.get("state"), result.get("error")
    if state is None:
        noted = notes.state(folder.name)
        if path.is_file():
            warn_once(f"{path}: is damaged; the state of the trial is read from the journal")
        return noted or TrialState.RUNNING, _last_error(folder) if noted is TrialState.FAILED else None
    if state not in set(TrialState):
        raise ArtifactError(f"{path}: unknown state {state!r}; use a newer evclip-ray")
    return TrialState(state), error


def _last_error(folder: Path) -> str:
    try:
        lines = (folder / ERROR).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "the reason is lost"


def _read_epochs(folder: Path, *, has_ended: bool) -> tuple[EpochMetrics, ...]:
    """Return the longest whole history. The run's own file may lack the last epoch after a kill."""
    path = folder / HISTORY
    own: list[dict[str, Any]] = []
    found = [_saved_history(checkpoint) for checkpoint in kept_checkpoints(folder / "last")]
    try:
        own = _whole_history(path)
    except ArtifactError as problem:
        warn_once(f"{problem}; the copy in `last/` is read")
    else:
        copied = max(map(len, found), default=0)
        if has_ended and len(own) < copied:
            warn_once(f"{path}: has {len(own)} of {counted(copied, 'epoch')}; the copy in `last/` is read")
        elif has_ended and own and not path.read_bytes().endswith(b"\n"):
            warn_once(f"{path}: ends within a line, so that an epoch after its {len(own)} may be lost")
    return tuple(EpochMetrics.from_record(record) for record in max([own, *found], key=len))


def _saved_history(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the history in a checkpoint; an empty one if it is damaged."""
    path, inode = checkpoint / HISTORY, -1
    while True:
        try:
            before, inode = inode, checkpoint.stat().st_ino
            written = read_checksums(checkpoint) or {}
            if HISTORY in written:
                check_content(path, written[HISTORY][1])
            return _whole_history(path)
        except FileNotFoundError:
            return []
        except ArtifactError as problem:
            # A running trial replaces its checkpoint, also while it is read.
            if inode == before:
                warn_once(f"{problem}; the copy beside `last/` is read")
                return []


def _whole_history(path: Path) -> list[dict[str, Any]]:
    records = read_history(path)
    if all(isinstance(record, dict) for record in records):
        return records
    raise ArtifactError(f"{path}: must have one mapping per line; the file is damaged")


def _read_answers(folder: Path) -> EpochAnswers | None:
    checkpoint = latest_checkpoint(folder / "last")
    try:
        return None if checkpoint is None else EpochAnswers.read(checkpoint)
    except ArtifactError as problem:
        # A running trial replaces the checkpoint, also while it is read. The leaderboard goes without.
        warn_once(str(problem))
        return None
