"""Points whose videos are not ready are held, and the study's points are the same ones for it."""

import optuna
import pytest

from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.optuna_storage import open_optuna
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
    """Makes a searcher for six random points in a folder of its own; `ready`: keys of the ready videos."""

    def make(name, ready, *, stops=None):
        folder = StudyFolder(tmp_path / name)
        folder.root.mkdir()
        study = open_optuna(folder, seed=5, sampler="random", trials=6)
        search = StudySearch(
            space, study, folder, max_epochs=1, stops=stops or Stops(None, max_epochs=1), missing=6,
            is_ready=lambda key: key in ready, room=lambda: 1,
        )  # fmt: skip
        search.set_max_concurrency(6)
        return search

    return make


@pytest.fixture
def keys(space):
    return {frames: videos_key(space.experiment({"view.num_frames": frames})) for frames in (4, 8)}


def ask(search, count):
    return [search.suggest(f"t{number}") for number in range(count)]


def test_ready_points_go_before_held_ones_and_those_first_once_they_are_ready(search, keys):
    inorder = ask(search("inorder", set(keys.values())), 6)
    assert [config["folder"] for config in inorder] == [f"trial-000{number}" for number in range(6)]
    drawn = [config["overrides"]["view.num_frames"] for config in inorder]
    assert 1 < drawn.count(4) < 5
    ready = {keys[4]}
    held = search("held", ready)
    begun = [config for config in ask(held, 6) if config is not None]
    assert begun == [config for config in inorder if config["overrides"]["view.num_frames"] == 4]
    assert held.suggest("none") is None
    ready.add(keys[8])
    late = [held.suggest(f"late{number}") for number in range(6 - len(begun))]
    assert late == [config for config in inorder if config["overrides"]["view.num_frames"] == 8]
    assert held.suggest("more") is None, "no more points are asked for than are missing"


def test_few_points_are_asked_ahead(search, space, tmp_path):
    held = search("ahead", set())
    held.set_max_concurrency(1)
    assert ask(held, 3) == [None] * 3
    folder = StudyFolder(tmp_path / "ahead")
    asked = open_optuna(folder, seed=5, sampler="random", trials=6).trials
    assert len(asked) == 4
    assert {trial.state for trial in asked} == {optuna.trial.TrialState.RUNNING}
    assert list(folder.trials()) == [], "a point that is held has begun nothing"


def test_an_error_of_the_preparation_lets_no_further_trial_start(search, keys):
    stops = Stops(None, max_epochs=4)
    held = search("ended", set(keys.values()), stops=stops)
    assert held.suggest("a")
    stops.error = OSError("full")
    assert held.suggest("b") == held.FINISHED
    assert stops("a", {"epoch": 1})
    assert stops.is_paused("a", {"epoch": 1})
