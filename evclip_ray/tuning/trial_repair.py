"""Repair of the trials of a study before it goes on: damaged files are written from their copies.

A trial whose results are lost keeps its point and is trained again.
"""

import json
import logging
import shutil
from collections.abc import Iterable

from evclip_ray.artifacts import ArtifactError, read_history, replacing, write_json, write_text
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.formatting import counted
from evclip_ray.objective import BEST
from evclip_ray.records import LeaderboardRow, TrialRecord, TrialState
from evclip_ray.training.checkpoint import HISTORY, ROWS, copy_checkpoint, read_record
from evclip_ray.training.checksums import check_checkpoint
from evclip_ray.training.saved_state import newest_state, set_aside
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import POINT, RESULT, read_fields

log = logging.getLogger(__name__)


def num_ended(folder: StudyFolder) -> int:
    """Return the number of trials that have ended and whose results are not lost."""
    records = list(folder.trials())
    return sum(record.state.has_ended for record in records) - len(_lost_checkpoints(folder, records))


def repair_trials(folder: StudyFolder) -> list[str]:
    """Write damaged files of the trials from their copies; return the trials that must be trained again.

    Args:
        folder: Folder of the study, which must be locked.
    """
    records = {record.trial: record for record in folder.trials()}
    lost = _lost_checkpoints(folder, records.values())
    repaired, restarted = [], []
    for path in sorted((folder.root / "trials").glob("trial-*")):
        if path.name not in records and any(not file.name.startswith(".") for file in path.iterdir()):
            # Its name would be given to a new trial, which would find the checkpoints of another one.
            path.rename(path.with_name(f"lost-{path.name}"))
            log.warning("%s: its point is lost; the folder is renamed to lost-%s", path, path.name)
    for name in folder.notes.folders():
        # Removed by hand or by damage: the point runs again in a folder of the same name.
        overrides = folder.notes.overrides(name)
        if name not in records and folder.notes.state(name) and overrides is not None:
            folder.begin(name, overrides)
            restarted.append(name)
            log.warning("%s: is missing; its point runs again", folder.trial(name))
    for name, record in records.items():
        reason = lost.get(name) or _lost_results(folder, record)
        if reason:
            set_aside(folder.trial(name), None)
            (folder.trial(name) / RESULT).unlink(missing_ok=True)
            restarted.append(name)
            log.warning("%s: %s; its point is trained again", folder.trial(name), reason)
        else:
            repaired += _repair(folder, record)
    row = _delivered(records.values())
    if row is not None and _is_restorable(folder, row):
        copy_checkpoint(folder.root / "best", folder.trial(row.trial) / "best")
        repaired.append(f"{folder.trial(row.trial) / 'best'}: was damaged and is restored from `best/`")
    earlier = [line for record in records.values() if (line := _earlier_state(folder, record))]
    for line in (*repaired, *earlier):
        log.warning("%s", line)
    if repaired or restarted or earlier:
        log.warning(
            "%s: %s repaired, %s trained again, %s back to an earlier epoch",
            folder.root,
            counted(len(repaired), "file"),
            counted(len(restarted), "trial"),
            counted(len(earlier), "trial"),
        )
    return restarted


def repair_rows(folder: StudyFolder, space: SearchSpace) -> None:
    """Replace damaged records of rows in checkpoints by that of the study.

    They are hard links to one file, so that damage to one of them is damage to all.

    Args:
        folder: Folder of the study, which must be locked.
        space: Its search space.
    """
    sizes = {path.stat().st_size for path in (folder.root / "rows").glob("*.parquet")}
    for record in folder.trials():
        for copy in folder.trial(record.trial).glob(f"*/{ROWS}"):
            # A record of 100,000 videos takes a second to read, so that equal sizes count as equal.
            if not record.state.has_ended or not sizes or copy.stat().st_size in sizes:
                continue
            try:
                RowRecord.read(copy)
            except ArtifactError as problem:
                key = videos_key(space.experiment(record.overrides))
                with replacing(copy) as temporary:
                    shutil.copyfile(folder.root / "rows" / f"{key}.parquet", temporary)
                log.warning("%s; it is replaced by that of the study", problem)


def _earlier_state(folder: StudyFolder, record: TrialRecord) -> str:
    """Return a line about the damaged checkpoint of a trial that goes on; empty if it is whole.

    Its run finds the same, in a process whose log is not shown.
    """
    trial = folder.trial(record.trial)
    if record.state.has_ended:
        return ""
    state, problems = newest_state(trial)
    if not problems:
        return ""
    action = f"goes on after epoch {state.history[-1].epoch}" if state else "starts again"
    return f"{'; '.join(problems)}; {record.trial} {action}"


def _lost_results(folder: StudyFolder, record: TrialRecord) -> str:
    """Return why an ended trial counts as running; empty if it does not."""
    written = read_fields(folder.trial(record.trial), RESULT).get("state")
    ended = TrialState(written) if written in set(TrialState) else folder.notes.state(record.trial)
    is_lost = record.state is TrialState.RUNNING and ended is not None and ended.has_final_score
    return f"its {HISTORY} is lost" if is_lost else ""


def _repair(folder: StudyFolder, record: TrialRecord) -> list[str]:
    """Write the files of a trial that differ from its record; return a line for each."""
    path, lines = folder.trial(record.trial), []
    if read_fields(path).get("overrides") != record.overrides:
        write_json(path / POINT, {"overrides": record.overrides})
        lines.append(f"{path / POINT}: was damaged or missing and is written again")
    result = read_fields(path, RESULT)
    if record.state.has_ended and result.get("state") != record.state:
        write_json(path / RESULT, {"state": str(record.state), "error": record.error})
        lines.append(f"{path / RESULT}: is written again; the trial had ended as {record.state}")
    elif not result and (path / RESULT).is_file():
        (path / RESULT).unlink()
        lines.append(f"{path / RESULT}: was damaged; the trial goes on")
    if record.state.has_ended and record.history:
        try:
            is_whole = len(read_history(path / HISTORY)) == len(record.history)
        except ArtifactError:
            is_whole = False
        if not is_whole:
            write_text(
                path / HISTORY, "".join(json.dumps(epoch.to_record()) + "\n" for epoch in record.history)
            )
            lines.append(f"{path / HISTORY}: was damaged or missing and is written again")
    return lines


def _lost_checkpoints(folder: StudyFolder, records: Iterable[TrialRecord]) -> dict[str, str]:
    """Return the trial whose checkpoint is delivered if it is damaged, with the reason.

    The checkpoints of other trials are not needed, and may have been removed to save space.
    """
    row = _delivered(records)
    if row is None or _is_restorable(folder, row):
        return {}
    problem = _damage(folder, row)
    return {row.trial: problem} if problem else {}


def _delivered(records: Iterable[TrialRecord]) -> LeaderboardRow | None:
    """Return the row of the trial whose checkpoint is delivered, if it has ended."""
    row = next((row for row in leaderboard(records) if row.best_epoch), None)
    # The run of a trial that goes on checks its own files.
    return row if row is not None and row.state.has_ended else None


def _damage(folder: StudyFolder, row: LeaderboardRow) -> str:
    """Return the damage of the checkpoint that a row describes; empty without one."""
    checkpoint = folder.trial(row.trial) / ("best" if folder.objective == BEST else "last")
    # Removed to save space, as a whole.
    if not checkpoint.is_dir():
        return ""
    try:
        check_checkpoint(checkpoint)
    except ArtifactError as problem:
        return str(problem)
    return ""


def _is_restorable(folder: StudyFolder, row: LeaderboardRow) -> bool:
    """Return whether the best checkpoint of a trial is damaged, and `best/` of the study is a copy of it."""
    best, last = folder.root / "best", folder.trial(row.trial) / "last"
    if folder.objective != BEST or not row.best_epoch or not _damage(folder, row):
        return False
    try:
        check_checkpoint(best)
        copied, ran = read_record(best), read_record(last)
        epochs = {record["progress"]["best_epoch"] for record in (copied, ran)}
        return bool(copied["experiment"] == ran["experiment"] and epochs == {row.best_epoch})
    except (ArtifactError, KeyError, TypeError):
        return False
