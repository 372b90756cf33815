"""Repair of a study before it goes on: files of its trials, and its journal.

The trial folders are the truth. They have points, histories and states, so that the journal can be written
again from them. The journal has points and states too, and replaces those files of a trial that are damaged
or missing. A trial whose results are lost keeps its point and is trained again.

A journal that only ends badly, as after a power loss, is cut behind its last whole line. A journal that is
missing, damaged before its end, or does not agree with the trial folders is written again as a whole. The
file as it was is kept as `study.journal.damaged`.
"""

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState

from evclip_ray.artifacts import ArtifactError, read_history, replacing, write_json, write_text
from evclip_ray.config import flatten
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.formatting import counted, shell
from evclip_ray.objective import BEST
from evclip_ray.records import LeaderboardRow, TrialRecord, objective_of
from evclip_ray.records import TrialState as State
from evclip_ray.training.checkpoint import (
    HISTORY,
    ROWS,
    copy_checkpoint,
    newest_state,
    read_record,
    set_aside,
)
from evclip_ray.training.checksums import check_checkpoint
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.journal import CREATE_TRIAL, FOLDER, INTERRUPTED, OVERRIDES, Journal, read_journal
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.optuna_storage import EVIDENCE, STUDY_NAME, Operations, replay
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import POINT, RESULT, read_fields

log = logging.getLogger(__name__)
KEPT = ".damaged"
"""Ending of the copy of a damaged journal."""


def num_ended(folder: StudyFolder) -> int:
    """Return the number of trials that have ended and whose results are not lost."""
    records = list(folder.trials())
    return sum(record.state.has_ended for record in records) - len(_lost_checkpoints(folder, records))


def recover_study(folder: StudyFolder, space: SearchSpace) -> None:
    """Repair the trials and the journal of a study. The folder must be locked.

    Args:
        folder: Folder of the study.
        space: Its search space.
    """
    # Optuna's own lock, which versions up to 0.1 used, outlives a killed process. The lock of the folder
    # excludes every live one.
    folder.journal.with_name(f"{folder.journal.name}.lock").unlink(missing_ok=True)
    restarted = _repair_trials(folder)
    _repair_rows(folder, space)
    journal = read_journal(folder.journal)
    records = list(folder.trials())
    reason = _reason_to_rebuild(folder, journal, records, restarted)
    if not reason and journal.damage == "none":
        return
    operations = journal.operations
    if reason:
        operations = _rebuilt(folder, space, journal, records)
    kept = folder.journal.with_name(folder.journal.name + KEPT)
    is_kept = folder.journal.is_file() and folder.journal.stat().st_size > 0
    if is_kept:
        shutil.copyfile(folder.journal, kept)
    write_text(folder.journal, "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in operations))
    action = (
        f"{reason}; it is written again from {counted(len(records), 'trial folder')}"
        if reason
        else f"{journal.reason}; it is cut there, and the study goes on"
    )
    log.warning("%s: %s%s", folder.journal, action, f". The old file is {kept.name}" if is_kept else "")
    if reason:
        _forget_warm_starts(folder, operations)


def _reason_to_rebuild(
    folder: StudyFolder, journal: Journal, records: list[TrialRecord], restarted: list[str]
) -> str:
    """Return why the journal must be written again; empty if it agrees with the trial folders."""
    if journal.damage == "middle":
        return journal.reason
    if restarted:
        return f"{', '.join(restarted)} must be trained again"
    if not records:
        return ""
    if not journal.operations:
        return "is missing or empty"
    try:
        trials = replay(journal.operations).trials
    # Optuna raises errors of many types for operations that do not belong together.
    except Exception as error:
        return f"cannot be read ({type(error).__name__}: {error})"
    noted = {trial.user_attrs[FOLDER]: trial for trial in trials if FOLDER in trial.user_attrs}
    for record in records:
        trial = noted.get(record.trial)
        if trial is None:
            return f"does not have {record.trial}"
        params = read_fields(folder.trial(record.trial)).get("params")
        if params is not None and trial.params and trial.params != params:
            return f"has another point for {record.trial}"
        is_ended = trial.state.is_finished() and not trial.user_attrs.get(INTERRUPTED)
        if record.state.has_ended and not is_ended:
            return f"does not have the end of {record.trial}"
    return ""


def _rebuilt(
    folder: StudyFolder, space: SearchSpace, journal: Journal, records: list[TrialRecord]
) -> list[dict[str, Any]]:
    """Return the operations of a journal with the trials of a study in the order of their folders."""
    operations = Operations([])
    study = optuna.create_study(storage=operations.storage(), study_name=STUDY_NAME, direction="maximize")
    for operation in (*journal.operations, *journal.behind):
        # Evidence is one operation with everything in it, and is in no trial folder.
        if operation["op_code"] == CREATE_TRIAL and EVIDENCE in (operation.get("user_attrs") or {}):
            operations.append_logs([operation])
    for record in records:
        _add(study, folder, space, record)
    return operations.operations


def _add(study: optuna.Study, folder: StudyFolder, space: SearchSpace, record: TrialRecord) -> None:
    fields = read_fields(folder.trial(record.trial))
    attributes = {**fields.get("attributes", {}), FOLDER: record.trial}
    attributes.pop(INTERRUPTED, None)
    try:
        params = fields.get("params")
        if params is None:
            params = space.params_of(space.point_of({**flatten(space.fixed), **record.overrides}))
        point = FixedTrial(params)
        # FixedTrial returns the given values and records the distribution of each path on the way.
        space.sample(point)
    except ValueError as problem:
        log.warning("%s: the sampler does not learn from it (%s)", folder.trial(record.trial), problem)
        point = FixedTrial({})
    if not record.state.has_ended:
        study.enqueue_trial(point.params, user_attrs=attributes)
        return
    state, value, values = _outcome(record, folder.objective, every_epoch=space.study.scheduler == "none")
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=value,
            params=point.params,
            distributions=point.distributions,
            intermediate_values=values,
            user_attrs={**attributes, OVERRIDES: record.overrides},
        )
    )


def _outcome(
    record: TrialRecord, objective: str, *, every_epoch: bool
) -> tuple[TrialState, float | None, dict[int, float]]:
    """Return the state, the value and the values by epoch of an ended trial, as `StudySearch` records them.

    Args:
        record: The trial.
        objective: Objective of the study.
        every_epoch: Whether the value of a last epoch is recorded too. A scheduler ends a trial before that.
    """
    values = {
        epoch.epoch: objective_of(record.history[:number], objective)
        for number, epoch in enumerate(record.history, start=1)
    }
    final = values.get(record.last.epoch, math.nan)
    if record.state is State.FAILED or not math.isfinite(final):
        return TrialState.FAIL, None, values
    if not (every_epoch and record.state in (State.COMPLETE, State.DIVERGED)):
        values.pop(record.last.epoch)
    if record.state is State.STOPPED:
        # Optuna gives a pruned trial its last value.
        return TrialState.PRUNED, next(reversed(values.values()), None), values
    return TrialState.COMPLETE, final, values


def _forget_warm_starts(folder: StudyFolder, operations: list[dict[str, Any]]) -> None:
    """Remove the warm starts from the ledger whose evidence or waiting points are not in the new journal.

    They are then read again if they are given again.
    """
    if not folder.has_ledger:
        return
    warm_starts = folder.ledger().get("warm_start", [])
    lost = [warm for warm in warm_starts if not _has_all(operations, warm)]
    if lost:
        folder.note(warm_start=[warm for warm in warm_starts if warm not in lost])
        named = " ".join(shell("--warm-start", warm["folder"]) for warm in lost)
        log.warning(
            "%s: the points and trials of a warm start are lost with the journal; add %s to read them again",
            folder.root,
            named,
        )


def _has_all(operations: list[dict[str, Any]], warm_start: Mapping[str, Any]) -> bool:
    attributes = [one.get("user_attrs") or {} for one in operations if one["op_code"] == CREATE_TRIAL]
    evidence = [each[EVIDENCE] for each in attributes if EVIDENCE in each]
    points = [each["warm_point"] for each in attributes if "warm_point" in each]
    num_evidence, num_points = (
        sum(one["study"] == warm_start["folder"] for one in marks) for marks in (evidence, points)
    )
    return num_evidence >= warm_start["evidence"] and num_points >= len(warm_start["points"])


def _repair_trials(folder: StudyFolder) -> list[str]:
    """Write damaged files of the trials from their copies; return the trials that must be trained again."""
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


def _repair_rows(folder: StudyFolder, space: SearchSpace) -> None:
    """Replace damaged records of rows in checkpoints by that of the study.

    They are hard links to one file, so that damage to one of them is damage to all.
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
    ended = State(written) if written in set(State) else folder.notes.state(record.trial)
    is_lost = record.state is State.RUNNING and ended is not None and ended.has_final_score
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
