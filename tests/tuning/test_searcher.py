"""The searcher's bound on how many trials run at once."""

from evclip_ray.tuning.optuna_storage import open_optuna
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder


def test_a_node_that_joins_makes_room_for_a_trial_more_than_planned(tmp_path):
    space = SearchSpace.load(
        "tiny", {"fixed": {"data.manifest": "m.csv"}, "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}}}
    )
    folder = StudyFolder(tmp_path)
    room = 0
    search = StudySearch(
        space, open_optuna(folder, seed=0, sampler="random", trials=8), folder,
        max_epochs=2, stops=Stops(None, max_epochs=2), room=lambda: room,
    )  # fmt: skip
    assert search.set_max_concurrency(1), "Tune keeps a bound of its own"
    assert search.suggest("a")["folder"] == "trial-0000"
    assert search.suggest("b") is None
    room = 2
    assert search.suggest("b")["folder"] == "trial-0001"
    assert search.suggest("c") is None
    search.on_trial_complete("a", {"objective": 0.5, "epoch": 2})
    assert search.suggest("c")["folder"] == "trial-0002"
    room = 0
    search.on_trial_complete("b", {"objective": 0.5, "epoch": 2})
    assert search.suggest("d") is None, "a lost node's trial waits for a place of its own"
