"""The searcher without Tune: concurrency, held points, states and seeds."""

import errno
import json
import math

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning import searcher
from evclip_ray.tuning.optuna_storage import count_missing, enqueue_failed, open_optuna, recover
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder

SEARCH = {"view.num_frames": {"choice": [4, 8]}, "optim.lr": {"loguniform": [1e-3, 1e-2]}}


@pytest.fixture
def space(tiny_manifest, debug_settings):
    fixed = {"data.manifest": str(tiny_manifest), **debug_settings}
    study = {"sampler": "random", "seed": 5}
    return SearchSpace.load("held", {"fixed": fixed, "search": SEARCH, "study": study})


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
            open_optuna(folder),
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
    return [t.state for t in open_optuna(StudyFolder(root)).trials]


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


def test_paused_trial_continues_in_its_folder_and_record(search, tmp_path):
    stops = Stops(None, max_epochs=2)
    paused = search("paused", stops=stops, max_epochs=2)
    first = paused.suggest("a")
    epoch = {"objective": 0.25, "val_top1": 0.25, "epoch": 1}
    paused.on_trial_result("a", epoch)
    stops.interrupted = True
    paused.on_trial_complete("a", epoch)
    assert states(tmp_path / "paused") == [TrialState.RUNNING]
    folder = StudyFolder(tmp_path / "paused")
    study = open_optuna(folder)
    recover(study, folder)
    assert states(tmp_path / "paused") == [TrialState.WAITING]
    assert count_missing(study, 6) == 6
    again = search("paused", max_epochs=2)
    assert again.suggest("b") == first
    # A kill lost the report of this epoch, and the first one is repeated.
    again.on_trial_result("b", epoch)
    again.on_trial_complete("b", {"objective": 0.5, "val_top1": 0.5, "epoch": 2})
    (trial,) = open_optuna(folder).trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.intermediate_values == {1: 0.25, 2: 0.5}


def test_trial_that_an_earlier_version_enqueued_again_runs_once(search, tmp_path):
    point = search("twice").suggest("a")
    folder = StudyFolder(tmp_path / "twice")
    study = open_optuna(folder)
    study.enqueue_trial(study.trials[0].params, user_attrs={"folder": "trial-0000"})
    recover(study, folder)
    assert states(folder.root) == [TrialState.FAIL, TrialState.WAITING]
    assert count_missing(study, 6) == 6
    assert search("twice").suggest("b") == point


def test_pruned_trial_has_its_curve_and_is_ranked_by_its_objective(search, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(searcher, "make_sampler", lambda kind, seed, trials: Spy(read, seed))
    pruned = search("pruned", max_epochs=4)
    pruned.suggest("a")
    folder = StudyFolder(tmp_path / "pruned")
    curve = [{"epoch": epoch, "val_top1": top1} for epoch, top1 in enumerate((0.5, 0.75, 0.25), start=1)]
    # The report of the second epoch was lost, and Tune reports the last one with the end.
    pruned.on_trial_result("a", {**curve[0], "objective": 0.5})
    history = "".join(json.dumps(epoch) + "\n" for epoch in curve)
    (folder.trial("trial-0000") / "history.jsonl").write_text(history)
    pruned.on_trial_complete("a", {**curve[2], "objective": 0.75})
    study = open_optuna(folder)
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.75, 3: 0.25}
    assert (study.study_name, study.metric_names) == ("pruned", ["val_top1"])
    pruned.suggest("b")
    assert [trial.intermediate_values for trial in read] == [{3: 0.75}] * len(read) != []


class Spy(optuna.samplers.RandomSampler):
    """Sampler that notes the earlier trials whenever it draws a value."""

    def __init__(self, read, seed):
        super().__init__(seed=seed)
        self._read = read

    def sample_independent(self, study, trial, name, distribution):
        self._read += [t for t in study.trials if t.number != trial.number]
        return super().sample_independent(study, trial, name, distribution)


def test_interrupted_point_without_search_keeps_its_seed(search, space, tmp_path):
    pinned = space.replace({"view.num_frames": 4, "optim.lr": 1e-2})
    assert search("pinned", space=pinned).suggest("a") == {"folder": "trial-0000", "overrides": {}}
    folder = StudyFolder(tmp_path / "pinned")
    recover(open_optuna(folder), folder)
    again = search("pinned", space=pinned)
    assert again.suggest("a") == {"folder": "trial-0000", "overrides": {}}
    again.on_trial_complete("a", {"objective": 0.5, "epoch": 1})
    assert again.suggest("b") == {"folder": "trial-0001", "overrides": {"seed": 1}}


def test_repeated_point_gets_the_next_seed(search, space, tmp_path):
    repeated = search("repeated")
    folder = StudyFolder(tmp_path / "repeated")
    study = open_optuna(folder)
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
        optuna_study = open_optuna(folder)
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


class Killed(BaseException):
    """Stands for SIGKILL: no code of the package handles it."""


def run_alone(space, folder):
    """Run the missing trials one after the other and return the points by folder."""
    study = open_optuna(folder)
    recover(study, folder)
    missing = count_missing(study, 6)
    stops = Stops(None, max_epochs=1)
    search = StudySearch(
        space, study, folder, max_epochs=1, stops=stops, trials=6, missing=missing, num_slots=lambda: 1
    )
    search.set_max_concurrency(1)
    while point := search.suggest("t"):
        value = -abs(math.log(point["overrides"]["optim.lr"] / 3e-3))
        search.on_trial_complete("t", {"objective": value, "epoch": 1})
    return {trial.trial: trial.overrides for trial in folder.trials()}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_points_do_not_depend_on_kills(space, tmp_path, monkeypatch, sampler):
    space = space.replace(study={"sampler": sampler})
    append, writes, killed_at = JournalFileBackend.append_logs, 0, -1

    def append_or_die(self, logs):
        nonlocal writes
        writes += 1
        if writes == killed_at:
            raise Killed
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append_or_die)
    folder = StudyFolder(tmp_path / "undisturbed")
    folder.root.mkdir()
    expected = run_alone(space, folder)
    assert list(expected) == [f"trial-000{number}" for number in range(6)]
    assert len({point["optim.lr"] for point in expected.values()}) == 6
    # A trial has about seven writes. The step is coprime to that, so that several kinds are met.
    for number in range(1, writes, 11):
        folder, writes, killed_at = StudyFolder(tmp_path / f"killed-{number}"), 0, number
        folder.root.mkdir()
        with pytest.raises(Killed):
            run_alone(space, folder)
        assert run_alone(space, StudyFolder(folder.root)) == expected


def test_full_disk_keeps_the_point_of_an_ended_trial(search, tmp_path, monkeypatch):
    stops = Stops(None, max_epochs=1)
    full = search("full", stops=stops, num_slots=lambda: 2)
    point = full.suggest("a")
    full.suggest("b")
    appended = []

    def refuse(self, logs):
        appended.append(logs)
        raise OSError(errno.ENOSPC, "No space left on device", "study.journal")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", refuse)
        full.on_trial_complete("a", {"objective": 0.5, "epoch": 1})
        assert stops.fault.reason == "the disk is full"
        # The last line may be cut: nothing may be written behind it.
        full.on_trial_result("b", {"objective": 0.5, "epoch": 1})
        full.on_trial_complete("b", {"objective": 0.5, "epoch": 1})
        assert full.suggest("c") == full.FINISHED
    assert len(appended) == 1
    folder = StudyFolder(tmp_path / "full")
    recover(open_optuna(folder), folder)
    assert search("full").suggest("a") == point


def test_failed_trials_run_again_with_their_points(search, tmp_path):
    failing = search("failed")
    points = suggest(failing, 2)
    failing.on_trial_complete("t0", {"objective": math.nan, "epoch": 0, "error": "e"})
    failing.on_trial_complete("t1", {"objective": 0.5, "epoch": 1})
    folder = StudyFolder(tmp_path / "failed")
    folder.finish("trial-0000", "failed", "e")
    folder.finish("trial-0001", "complete")
    study = open_optuna(folder)
    assert count_missing(study, 2) == 0
    enqueue_failed(study, folder)
    assert count_missing(study, 2) == 1
    assert next(folder.trials()).state == "running"
    again = search("failed")
    assert again.suggest("a") == points[0]
    again.on_trial_complete("a", {"objective": 0.25, "epoch": 1})
    assert count_missing(open_optuna(folder), 2) == 0
    assert search("failed").suggest("b")["folder"] == "trial-0002"
