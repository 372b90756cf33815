"""Repair of a study before it goes on: files of its trials (`trial_repair`), and its journal.

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
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState

from evclip_ray.artifacts import write_text
from evclip_ray.config import flatten
from evclip_ray.formatting import counted, shell
from evclip_ray.objective import OBJECTIVE
from evclip_ray.records import TrialRecord, objective_of
from evclip_ray.records import TrialState as State
from evclip_ray.tuning.journal import CREATE_TRIAL, FOLDER, INTERRUPTED, OVERRIDES, Journal, read_journal
from evclip_ray.tuning.optuna_storage import EVIDENCE, Operations, create_record, record_name, replay
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import read_fields
from evclip_ray.tuning.trial_repair import repair_rows, repair_trials

log = logging.getLogger(__name__)
KEPT = ".damaged"
"""Ending of the copy of a damaged journal."""


def recover_study(folder: StudyFolder, space: SearchSpace) -> None:
    """Repair the trials and the journal of a study. The folder must be locked.

    Args:
        folder: Folder of the study.
        space: Its search space.
    """
    # Optuna's own lock, which versions up to 0.1 used, outlives a killed process. The lock of the folder
    # excludes every live one.
    folder.journal.with_name(f"{folder.journal.name}.lock").unlink(missing_ok=True)
    restarted = repair_trials(folder)
    repair_rows(folder, space)
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
        # Compared as the file has them.
        drawn = json.loads(json.dumps(trial.params, default=str))
        if params is not None and drawn and drawn != params:
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
    # Optuna logs the creation of a study.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = create_record(operations.storage(), record_name(folder))
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
    curve = {epoch.epoch: epoch.val_top1 for epoch in record.history if math.isfinite(epoch.val_top1)}
    if not record.state.has_ended:
        # As `Study.enqueue_trial` does, which takes no values of earlier epochs.
        state, value, system = TrialState.WAITING, None, {"fixed_params": point.params}
    else:
        state, value, system = *_outcome(record, folder.objective), {}
        attributes[OVERRIDES] = record.overrides
    if state is TrialState.PRUNED:
        # Optuna gives a pruned trial the value of its last epoch, see `StudySearch`.
        attributes[OBJECTIVE], value = value, next(reversed(curve.values()), None)
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=value,
            params=point.params,
            distributions=point.distributions,
            intermediate_values=curve,
            user_attrs=attributes,
            system_attrs=system,
        )
    )


def _outcome(record: TrialRecord, objective: str) -> tuple[TrialState, float | None]:
    """Return the state and the objective of an ended trial, as `StudySearch` records them."""
    final = objective_of(record.history, objective) if record.history else math.nan
    if record.state is State.FAILED or not math.isfinite(final):
        return TrialState.FAIL, None
    return TrialState.PRUNED if record.state is State.STOPPED else TrialState.COMPLETE, final


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
    return bool(num_evidence >= warm_start["evidence"] and num_points >= len(warm_start["points"]))
