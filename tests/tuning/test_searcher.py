"""The searcher without Tune: concurrency, held points, states and seeds."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning import searcher
from evclip_ray.tuning.optuna_storage import count_missing, open_optuna, recover
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder

SEARCH = {"view.num_frames": {"choice": [4, 8]}, "optim.lr": {"loguniform": [1e-3, 1e-2]}}


@pytest.fixture
def space(tiny_manifest, debug_settings):
    fixed = {"data.manifest": str(tiny_manifest), **debug_settings}
    return SearchSpace.load("held", {"fixed": fixed, "search": SEARCH})


@pytest.fixture
def search(space, tmp_path):
    """Return a factory of searchers for six random points. `ready` are the keys of the ready videos."""

    def make(
        name, *, ready=None, stops=None, num_slots=lambda: 1, max_concurrent=6, max_epochs=1, space=space
    ):
        folder = StudyFolder(tmp_path / name)
        folder.root.mkdir(exist_ok=True)
        search = StudySearch(
            space,
            open_optuna(folder, seed=5, sampler="random", trials=6),
            folder,
            max_epochs=max_epochs,
            stops=stops or Stops(None, max_epochs=max_epochs),
            missing=6,
            is_ready=lambda key: ready is None or key in ready,
            num_slots=num_slots,
        )
        assert search.set_max_concurrency(max_concurrent), "otherwise Tune enforces the bound itself"
        return search

    return make


@pytest.fixture
def keys(space):
    return {frames: videos_key(space.experiment({"view.num_frames": frames})) for frames in (4, 8)}


def suggest(search, count):
    return [search.suggest(f"t{number}") for number in range(count)]


def states(root):
    return [t.state for t in open_optuna(StudyFolder(root), seed=5, sampler="random", trials=6).trials]


def test_more_slots_than_planned_are_used(search):
    slots = 0
    small = search("slots", max_concurrent=1, max_epochs=2, num_slots=lambda: slots)
    assert small.suggest("a")["folder"] == "trial-0000"
    assert small.suggest("b") is None
    slots = 2
    assert small.suggest("b")["folder"] == "trial-0001"
    assert small.suggest("c") is None
    small.on_trial_complete("a", {"objective": 0.5, "epoch": 2})
    assert small.suggest("c")["folder"] == "trial-0002"
    slots = 0
    small.on_trial_complete("b", {"objective": 0.5, "epoch": 2})
    assert small.suggest("d") is None, "the trial of a lost node keeps its slot"


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        ({"objective": 0.5, "epoch": 2}, False, TrialState.COMPLETE),
        ({"objective": 0.5, "epoch": 1, "diverged": True}, False, TrialState.COMPLETE),
        ({"objective": 0.5, "epoch": 1}, False, TrialState.PRUNED),
        ({"objective": math.nan, "epoch": 0, "error": "e"}, False, TrialState.FAIL),
        ({"objective": 0.5, "epoch": 2}, True, TrialState.FAIL),
        (None, False, TrialState.FAIL),
    ],
)
def test_states_of_ended_trials(search, tmp_path, result, error, state):
    ended = search("ended", max_epochs=2)
    ended.suggest("a")
    ended.on_trial_complete("a", result, error)
    ended.on_trial_complete("a", result, error)
    ended.on_trial_complete("unknown", result, error)
    assert states(tmp_path / "ended") == [state]


def test_paused_point_continues_in_its_folder(search, tmp_path):
    stops = Stops(None, max_epochs=2)
    paused = search("paused", stops=stops, max_epochs=2)
    first = paused.suggest("a")
    paused.on_trial_result("a", {"objective": 0.25, "epoch": 1})
    stops.interrupted = True
    paused.on_trial_complete("a", {"objective": 0.25, "epoch": 1})
    assert states(tmp_path / "paused") == [TrialState.RUNNING]
    folder = StudyFolder(tmp_path / "paused")
    study = open_optuna(folder, seed=5, sampler="random", trials=6)
    recover(study, folder)
    assert states(tmp_path / "paused") == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[0].user_attrs["interrupted"]
    assert study.trials[0].intermediate_values == {1: 0.25}
    assert count_missing(study, 6) == 6
    assert search("paused").suggest("b") == first


def test_interrupted_point_without_search_keeps_its_seed(search, space, tmp_path):
    pinned = space.replace({"view.num_frames": 4, "optim.lr": 1e-2})
    assert search("pinned", space=pinned).suggest("a") == {"folder": "trial-0000", "overrides": {}}
    folder = StudyFolder(tmp_path / "pinned")
    recover(open_optuna(folder, seed=5, sampler="random", trials=6), folder)
    again = search("pinned", space=pinned)
    assert again.suggest("a") == {"folder": "trial-0000", "overrides": {}}
    again.on_trial_complete("a", {"objective": 0.5, "epoch": 1})
    assert again.suggest("b") == {"folder": "trial-0001", "overrides": {"seed": 1}}


def test_repeated_point_gets_the_next_seed(search, space, tmp_path):
    repeated = search("repeated")
    folder = StudyFolder(tmp_path / "repeated")
    study = open_optuna(folder, seed=5, sampler="random", trials=6)
    for _ in range(2):
        study.enqueue_trial({"view.num_frames": 4, "optim.lr": 0.002})
    configs = suggest(repeated, 2)
    assert [config["overrides"].get("seed") for config in configs] == [None, 1]


def test_ready_points_start_before_held_points(search, keys):
    in_order = suggest(search("in_order"), 6)
    assert [config["folder"] for config in in_order] == [f"trial-000{number}" for number in range(6)]
    drawn = [config["overrides"]["view.num_frames"] for config in in_order]
    assert 1 < drawn.count(4) < 5
    ready = {keys[4]}
    held = search("held", ready=ready)
    begun = [config for config in suggest(held, 6) if config is not None]
    assert begun == [config for config in in_order if config["overrides"]["view.num_frames"] == 4]
    assert held.suggest("none") is None
    ready.add(keys[8])
    late = [held.suggest(f"late{number}") for number in range(6 - len(begun))]
    assert late == [config for config in in_order if config["overrides"]["view.num_frames"] == 8]
    assert held.suggest("more") is None, "more points than missing were drawn"


def test_few_points_are_drawn_ahead(search, tmp_path):
    assert suggest(search("ahead", ready=set(), max_concurrent=1), 3) == [None] * 3
    assert states(tmp_path / "ahead") == [TrialState.RUNNING] * 4
    assert list(StudyFolder(tmp_path / "ahead").trials()) == [], "a held point has no trial folder"


def test_no_trial_starts_after_a_preparation_error(search):
    stops = Stops(None, max_epochs=4)
    ended = search("ended", stops=stops)
    assert ended.suggest("a")
    stops.error = OSError("full")
    assert ended.suggest("b") == ended.FINISHED
    assert stops("a", {"epoch": 1})
    assert stops.is_paused("a", {"epoch": 1})


METHODS = ("coop", "linear_probe", "prototype")


@pytest.fixture(params=["random", "tpe"])
def balanced(request, tmp_path):
    """Return a factory of searchers of a study that is balanced over three methods."""
    search = {
        "method.name": {"choice": list(METHODS), "balanced": True},
        "optim.lr": [
            {"loguniform": [10.0**-n, 10.0 ** (1 - n)], "when": {"method.name": name}}
            for n, name in enumerate(METHODS, start=2)
        ],
    }
    fixed = {"data.manifest": "videos.csv", "backbone.name": "debug", "backbone.pretrained": "random"}
    study = {"sampler": request.param, "seed": 3, "trials": 12}
    space = SearchSpace.load("balanced", {"fixed": fixed, "search": search, "study": study})
    folder = StudyFolder(tmp_path / "balanced")
    folder.root.mkdir()

    def make(missing=12):
        optuna_study = open_optuna(folder, seed=3, sampler=request.param, trials=12)
        recover(optuna_study, folder)
        stops = Stops(None, max_epochs=1)
        search = StudySearch(
            space, optuna_study, folder, max_epochs=1, stops=stops, missing=missing, num_slots=lambda: 12
        )
        search.set_max_concurrency(12)
        return search

    return make


def methods_of(configs):
    return [config["overrides"]["method.name"] for config in configs]


def test_balanced_values_alternate_with_their_own_ranges(balanced):
    configs = suggest(balanced(), 7)
    assert methods_of(configs) == [*METHODS, *METHODS, METHODS[0]], "the first value gets the rest"
    rates = {}
    for config in configs:
        number = METHODS.index(config["overrides"]["method.name"]) + 2
        assert 10.0**-number <= config["overrides"]["optim.lr"] <= 10.0 ** (1 - number)
        rates.setdefault(number, set()).add(config["overrides"]["optim.lr"])
    assert [len(drawn) for drawn in rates.values()] == [3, 2, 2], "every trial has another rate"


def test_balance_holds_after_failed_and_interrupted_trials(balanced):
    first = balanced()
    suggest(first, 4)
    first.on_trial_complete("t0", {"objective": 0.5, "epoch": 1})
    first.on_trial_complete("t1", error=True)
    # t2 and t3 were running when the process was killed. They run again, with the same points.
    second = balanced(missing=10)
    again = suggest(second, 2)
    assert [config["folder"] for config in again] == ["trial-0002", "trial-0003"]
    assert methods_of(again) == ["prototype", "coop"]
    later = [second.suggest(f"later{number}") for number in range(8)]
    assert methods_of(later) == ["linear_probe", "prototype", *METHODS, *METHODS]
    assert second.suggest("more") is None


def test_balance_counts_points_of_the_queue(balanced):
    search = balanced()
    for rate in (2e-2, 3e-2):
        name = "optim.lr when method.name in ['coop']"
        search._study.enqueue_trial({"method.name": "coop", name: rate})
    configs = suggest(search, 6)
    assert [config["overrides"]["optim.lr"] for config in configs[:2]] == [2e-2, 3e-2]
    assert methods_of(configs[2:]) == ["linear_probe", "prototype", "linear_probe", "prototype"]


def test_sampler_reads_trials_of_the_value_alone(balanced, monkeypatch):
    read = []

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            earlier = [t for t in study.trials if t.number != trial.number]
            read.append([(t.params["method.name"], t.value) for t in earlier])
            return super().sample_independent(study, trial, name, distribution)

    monkeypatch.setattr(searcher, "make_sampler", lambda kind, seed, trials: Spy(seed=seed))
    search = balanced()
    for number in range(6):
        search.suggest(f"t{number}")
        if number != 1:
            search.on_trial_complete(f"t{number}", {"objective": 0.1 * number, "epoch": 1})
    running = ("linear_probe", None)
    assert read == [[], [], [], [("coop", 0.0)], [running], [("prototype", pytest.approx(0.2))]]
