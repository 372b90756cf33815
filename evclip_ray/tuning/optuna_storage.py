"""The Optuna record of a study: open it, count its trials, repair it after a kill."""

import logging
import math
import warnings

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from evclip_ray.tuning.study_folder import StudyFolder

log = logging.getLogger(__name__)
STUDY_NAME = "evclip-ray"
EVIDENCE = "evidence"
"""User attribute of a trial of another study: the sampler learns from it, and it is not counted."""


def open_optuna(folder: StudyFolder, *, seed: int, sampler: str, trials: float) -> optuna.Study:
    """Open the Optuna record of a study, or create it.

    The sampler's seed is `seed` plus the number of recorded trials: the same seed in a resumed study would
    propose the same random points again.

    Args:
        folder: The study's folder.
        seed: The study's seed.
        sampler: "tpe" or "random".
        trials: Trials of the whole study, `inf` without a limit.
    """
    # Optuna logs a line per trial, which would tear the progress view apart.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=_open_journal(folder), study_name=STUDY_NAME, direction="maximize", load_if_exists=True
    )
    study.sampler = make_sampler(sampler, seed=seed + len(study.trials), trials=trials)
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
    """Return the trials of a study without evidence, and without interrupted ones, which run again."""
    return [
        trial
        for trial in study.trials
        if EVIDENCE not in trial.user_attrs and not trial.user_attrs.get("interrupted", False)
    ]


def recover(study: optuna.Study, folder: StudyFolder) -> None:
    """Enqueue the interrupted points again; each continues in the folder that it began in.

    An interrupted trial is still RUNNING in the record. It becomes FAIL with the attribute `interrupted`,
    so that it does not count as ended, and its point is enqueued as a new trial.
    """
    # A folder whose point is enqueued already must not be enqueued twice: two trials would write to it.
    waiting = {t.user_attrs.get("folder") for t in study.trials if t.state == TrialState.WAITING}
    interrupted = study.get_trials(states=(TrialState.RUNNING,))
    if not interrupted:
        return
    # Optuna sets attributes through a storage only: a study has no public access to its own.
    storage = _open_journal(folder)
    study_id = storage.get_study_id_from_name(STUDY_NAME)
    for trial in interrupted:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_user_attr(trial_id, "interrupted", True)
        study.tell(trial.number, state=TrialState.FAIL)
        name = trial.user_attrs.get("folder")
        # A point that was requested but not drawn in full has no folder and nothing to continue.
        if name is not None and name not in waiting:
            study.enqueue_trial(trial.params, user_attrs={"folder": name})
            log.info("%s: was interrupted before and continues", folder.trial(name))


def _open_journal(folder: StudyFolder) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder.journal)))
