"""The Optuna record of a study: open it, count its trials, repair it after a kill."""

import json
import math
import warnings
from collections.abc import Generator, Iterable
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import RESULT

METRIC = "val_top1"
"""Name of the value of a trial, that of the same number in `leaderboard.csv`."""
EVIDENCE = "evidence"
"""User attribute of a trial of another study: the sampler learns from it, and it is not counted."""


def open_optuna(folder: StudyFolder) -> optuna.Study:
    """Open the Optuna record of a study, or create it.

    Its sampler is never used: `searcher` draws each point elsewhere and enqueues it.

    Args:
        folder: The study's folder.
    """
    # Optuna logs a line per trial, which would tear the progress view apart.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _open_journal(folder)
    # A record keeps its name: "evclip-ray" in earlier versions, now that of the folder.
    names = optuna.get_all_study_names(storage)
    return create_record(storage, names[0] if names else record_name(folder))


def record_name(folder: StudyFolder) -> str:
    """Return the name of a new Optuna record: that of the study's folder."""
    return folder.root.resolve().name


def create_record(storage: JournalStorage, name: str) -> optuna.Study:
    """Create the Optuna record of a study, or open it if the storage has it."""
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        # Optuna's default would compute a point for every trial, also for those with a given one.
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([METRIC])
    return study


def make_sampler(kind: str, *, seed: int, trials: float) -> optuna.samplers.BaseSampler:
    """Return the sampler of a study.

    Args:
        kind: "tpe" for multivariate TPE that accounts for conditional paths and running trials, or "random".
        seed: Seed of the sampler.
        trials: Trials of the whole study, `inf` without a limit. TPE draws about a third of them at random
            first, at least 3 and at most 10.
    """
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # With the default of 10 random trials, TPE would not choose a single point of a small study.
    startup = 10 if math.isinf(trials) else max(3, min(10, int(trials) // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # multivariate: settings are drawn jointly, so that TPE can learn that one value suits another.
        # group: settings under a condition form groups; without it, TPE draws them independently.
        # constant_liar: a running trial counts as a bad one, so that parallel trials do not propose the
        # same point.
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )


def count_missing(study: optuna.Study, trials: float) -> float:
    """Return the number of trials still to run: all less the ended ones. Interrupted ones have not ended."""
    # FAIL counts as ended: an error of a trial would occur again.
    ended = sum(trial.state.is_finished() for trial in own_trials(study))
    return max(0, trials - ended)


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of a study without evidence, and without those that run again in their folders."""
    trials = study.get_trials(deepcopy=False)
    # Of several trials in one folder the last one counts.
    latest = {t.user_attrs["folder"]: t.number for t in trials if "folder" in t.user_attrs}
    return [
        trial
        for trial in trials
        if EVIDENCE not in trial.user_attrs
        and not trial.user_attrs.get("interrupted", False)
        and latest.get(trial.user_attrs.get("folder"), trial.number) == trial.number
    ]


def enqueue_failed(study: optuna.Study, folder: StudyFolder) -> None:
    """Enqueue the points of failed trials again; each continues in the folder that it began in."""
    for trial in own_trials(study):
        if trial.state is TrialState.FAIL and "folder" in trial.user_attrs:
            name = trial.user_attrs["folder"]
            # First: a folder that has ended without an end in the journal would count as damage.
            (folder.trial(name) / RESULT).unlink(missing_ok=True)
            study.enqueue_trial(trial.params, user_attrs={"folder": name})


def recover(study: optuna.Study, folder: StudyFolder) -> None:
    """Put the interrupted trials back into the queue; each continues in the folder that it began in.

    An interrupted or paused trial is still RUNNING in the record. It becomes WAITING and keeps its point and
    the values of its epochs. `Study.ask` returns it again, before points that were drawn later.
    """
    interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not interrupted:
        return
    waiting = {t.user_attrs.get("folder") for t in study.get_trials(states=(TrialState.WAITING,))}
    # Optuna sets the state WAITING through a storage only: a study has no public access to its own.
    storage = _open_journal(folder)
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in interrupted:
        name = trial.user_attrs.get("folder")
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        if name is not None and name in waiting:
            # Earlier versions enqueued the point as another trial first. Two trials would write to one
            # folder.
            storage.set_trial_user_attr(trial_id, "interrupted", True)
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        storage.set_trial_state_values(trial_id, TrialState.WAITING)


class _LockedFolder(JournalFileSymlinkLock):
    """No lock of its own: the lock of the study's folder excludes other writers, and ends with its process.

    Optuna's symbolic link stays behind after a kill.
    """

    def acquire(self) -> bool:
        """Return True."""
        return True

    def release(self) -> None:
        """Do nothing."""


def _open_journal(folder: StudyFolder) -> JournalStorage:
    path = str(folder.journal)
    return JournalStorage(JournalFileBackend(path, lock_obj=_LockedFolder(path)))


class Operations(BaseJournalBackend):
    """Journal in memory, for reading one without writing to it, and for composing one.

    Args:
        operations: Operations to begin with.
    """

    def __init__(self, operations: Iterable[dict[str, Any]]) -> None:
        self.operations = list(operations)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
        """Yield the operations from a number on."""
        yield from self.operations[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations."""
        # As a file would return them: with plain numbers for Optuna's enumerations.
        self.operations += json.loads(json.dumps(logs))

    def storage(self) -> JournalStorage:
        """Return an Optuna storage on these operations."""
        return JournalStorage(self)


def replay(operations: Iterable[dict[str, Any]]) -> optuna.Study:
    """Return the study that the operations of a journal describe.

    Raises:
        ValueError: They do not have the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(
        study_name=None,
        storage=Operations(operations).storage(),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
