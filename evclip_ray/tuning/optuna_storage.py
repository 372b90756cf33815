"""The study's Optuna record: opened, counted, and set right after a kill."""

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
"""The user attribute of a trial that another study ran: the sampler learns from it, nothing counts it."""


def open_optuna(folder: StudyFolder, *, seed: int, sampler: str, trials: float) -> optuna.Study:
    """The study's Optuna record, made if it is not there.

    The sampler's seed moves on with the trials on record: the same seed again would propose the
    same random points again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.create_study(
        storage=storage, study_name=STUDY_NAME, direction="maximize", load_if_exists=True
    )
    study.sampler = make_sampler(sampler, seed=seed + len(study.trials), trials=trials)
    return study


def make_sampler(kind: str, *, seed: int, trials: float) -> optuna.samplers.BaseSampler:
    """TPE over joint, conditional spaces, aware of running trials; or random search."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # The default of 10 random trials would leave a small study no trial to learn with.
    startup = 10 if math.isinf(trials) else max(3, min(10, int(trials) // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )


def count_missing(study: optuna.Study, trials: float) -> float:
    """Trials still to run: those asked for, less those that ended (an interrupted one has not)."""
    ended = sum(trial.state.is_finished() and _is_own(trial) for trial in study.trials)
    return max(0, trials - ended)


def _is_own(trial: FrozenTrial) -> bool:
    return EVIDENCE not in trial.user_attrs and not trial.user_attrs.get("interrupted", False)


def recover(study: optuna.Study, folder: StudyFolder) -> None:
    """Ask again the points that were interrupted; they go on in the folders that they began in."""
    waiting = {t.user_attrs.get("folder") for t in study.trials if t.state == TrialState.WAITING}
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        study.tell(trial.number, state=TrialState.FAIL)
        name = trial.user_attrs.get("folder")
        # A point that was asked but never drawn in full has no folder, and nothing to go on with.
        if name is not None and name not in waiting:
            study.enqueue_trial(trial.params, user_attrs={"folder": name})
            log.info("%s: interrupted before, goes on", folder.trial(name))
