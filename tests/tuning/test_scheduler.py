"""Schedulers decide the same after an interruption of the study."""

import json
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from evclip_ray.artifacts import write_json
from evclip_ray.objective import OBJECTIVE
from evclip_ray.tuning.scheduler import make_scheduler
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder

EPOCHS = 9


@pytest.fixture
def space(tiny_manifest, debug_settings):
    fixed = {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": EPOCHS}
    study = {"grace_epochs": 1, "reduction_factor": 3}
    search = {"optim.lr": {"loguniform": [1e-3, 1e-2]}}
    return SearchSpace.load("tiny", {"fixed": fixed, "search": search, "study": study})


def live(scheduler, name, scores, overrides=None):
    """Report the scores of a trial as Tune does. Return the decisions, up to the one that stops it."""
    config = {"folder": name, "overrides": overrides or {}}
    trial = SimpleNamespace(trial_id=f"tune-{name}", config=config)
    scheduler.on_trial_add(None, trial)
    decisions = []
    for epoch, score in scores:
        decisions.append(scheduler.on_trial_result(None, trial, {"epoch": epoch, OBJECTIVE: score}))
        if decisions[-1] == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trial, {"epoch": epoch, OBJECTIVE: score})
            break
    return decisions


def on_disk(folder, name, scores, state):
    folder.begin(name, {"optim.lr": 1e-3})
    lines = [json.dumps({"epoch": epoch, "best_val_top1": score}) for epoch, score in scores]
    (folder.trial(name) / "history.jsonl").write_text("\n".join(lines) + "\n")
    if state:
        (folder.trial(name) / "result.json").write_text(json.dumps({"state": state, "error": None}))


def constant(score, *, first=1, last=EPOCHS):
    return [(epoch, score) for epoch in range(first, last + 1)]


def test_resumed_study_makes_the_same_stop_decisions(space, tmp_path):
    earlier = {"trial-0000": 0.9, "trial-0001": 0.8, "trial-0002": 0.7}
    undisturbed = make_scheduler(space, StudyFolder(tmp_path / "none"), max_epochs=EPOCHS)
    folder = StudyFolder(tmp_path / "study")
    for name, score in earlier.items():
        decisions = live(undisturbed, name, constant(score))
        state = "complete" if len(decisions) == EPOCHS else "stopped"
        on_disk(folder, name, constant(score)[: len(decisions)], state)
    resumed = make_scheduler(space, folder, max_epochs=EPOCHS)
    for score in (0.85, 0.1, 0.95):
        name = f"later-{score}"
        assert live(resumed, name, constant(score)) == live(undisturbed, name, constant(score))
    forgetful = make_scheduler(space, StudyFolder(tmp_path / "empty"), max_epochs=EPOCHS)
    assert len(live(forgetful, "later", constant(0.1))) == EPOCHS
    assert live(resumed, "later", constant(0.1)) == [TrialScheduler.STOP]


def test_resumed_trial_is_not_judged_at_earlier_rungs(space, tmp_path):
    folder = StudyFolder(tmp_path)
    on_disk(folder, "trial-0000", constant(0.5), "complete")
    # It was better at the first epochs and has passed the rungs there.
    on_disk(folder, "trial-0001", constant(0.6, last=5), "paused")
    scheduler = make_scheduler(space, folder, max_epochs=EPOCHS)
    rungs = dict(scheduler._brackets[0]._rungs)
    assert set(rungs[3]) == {"trial-0000"}
    assert live(scheduler, "trial-0001", constant(0.1, first=6, last=8)) == [TrialScheduler.CONTINUE] * 3
    assert rungs[3]["tune-trial-0001"] == 0.6


def test_other_schedulers_need_no_memory(space, tmp_path):
    none = SearchSpace.load("none", {"fixed": space.fixed, "study": {"scheduler": "none"}})
    assert isinstance(make_scheduler(none, StudyFolder(tmp_path), max_epochs=EPOCHS), FIFOScheduler)


def test_hyperband_remembers_the_bracket_of_a_trial(space, tmp_path):
    data = {"fixed": space.fixed, "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}}}
    study = {"scheduler": "hyperband", "grace_epochs": 1, "reduction_factor": 3}
    banded = SearchSpace.load("banded", {**data, "study": study})
    names = [f"trial-{number:04}" for number in range(40)]
    folder = StudyFolder(tmp_path)
    undisturbed = make_scheduler(banded, StudyFolder(tmp_path / "none"), max_epochs=EPOCHS)
    first_judged = []
    for number, name in enumerate(names):
        decisions = live(undisturbed, name, constant(1 - number / 100))
        first_judged.append(len(decisions))
        state = "complete" if len(decisions) == EPOCHS else "stopped"
        on_disk(folder, name, constant(1 - number / 100)[: len(decisions)], state)
    # The first bracket has rungs at epochs 1 and 3, the second only at 3.
    assert {1, 3} <= set(first_judged)
    resumed = make_scheduler(banded, folder, max_epochs=EPOCHS)
    assert [len(bracket._rungs) for bracket in resumed._brackets] == [3, 2]
    for name in ("later-a", "later-b", "later-c"):
        assert live(resumed, name, constant(0.5)) == live(undisturbed, name, constant(0.5))


def test_balanced_values_are_not_compared(tiny_manifest, debug_settings, tmp_path):
    fixed = {path: value for path, value in debug_settings.items() if not path.startswith("method.")}
    fixed |= {"data.manifest": str(tiny_manifest), "optim.epochs": EPOCHS}
    search = {"method.name": {"choice": ["coop", "linear_probe"], "balanced": True}}
    study = {"grace_epochs": 1, "reduction_factor": 3}
    balanced = SearchSpace.load("balanced", {"fixed": fixed, "search": search, "study": study})
    folder = StudyFolder(tmp_path)
    on_disk(folder, "trial-0000", constant(0.9), "complete")
    write_json(folder.trial("trial-0000") / "point.json", {"overrides": {"method.name": "coop"}})
    scheduler = make_scheduler(balanced, folder, max_epochs=EPOCHS)
    slow = {"method.name": "linear_probe"}
    assert len(live(scheduler, "trial-0001", constant(0.2), slow)) == EPOCHS, "the first one of its method"
    assert live(scheduler, "trial-0002", constant(0.1), slow) == [TrialScheduler.STOP]
    assert live(scheduler, "trial-0003", constant(0.8), {"method.name": "coop"}) == [TrialScheduler.STOP]


@pytest.mark.parametrize("kind", ["none", "asha"])
def test_death_for_lack_of_memory_is_no_failure(space, tmp_path, kind):
    stops = Stops(None, max_epochs=EPOCHS)
    scheduler = make_scheduler(
        space.replace(study={"scheduler": kind}), StudyFolder(tmp_path), max_epochs=EPOCHS, stops=stops
    )
    error = tmp_path / "error.txt"
    error.write_text("Failure # 3\n1 worker(s) were killed due to the node running low on memory.")
    trial = SimpleNamespace(trial_id="a", error_file=str(error), should_recover=lambda: True)
    trial.config = {"folder": "trial-0000", "overrides": {}}
    scheduler.on_trial_add(None, trial)
    scheduler.on_trial_error(None, trial)
    assert not stops.is_over, "Tune starts the process again"
    trial.should_recover = lambda: False
    scheduler.on_trial_error(None, trial)
    assert stops.is_paused("a", {})
