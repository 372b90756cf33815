import dataclasses
import math

import numpy as np
import pytest

from evclip_ray.records import LeaderboardRow, TrialState
from evclip_ray.tuning.importance import parameter_importance
from evclip_ray.tuning.search_space import SearchSpace

SEARCH = {
    "optim.lr": {"loguniform": [1e-5, 1e-1]},
    "method.prompts": {"choice": ["both", "context"]},
    "method.mask.depth": {"int": [1, 4], "when": {"method.prompts": ["both"]}},
}


@pytest.fixture
def space():
    data = {"fixed": {"data.manifest": "none", "method.name": "ev_clip"}, "search": SEARCH}
    return SearchSpace.load("tiny", data)


def rows(count, **changes):
    """Return rows of trials whose top-1 depends only on the learning rate."""
    trials = []
    for index in range(count):
        lr = 10 ** (-5 + 4 * ((index * 0.618) % 1))
        prompts = "both" if index % 2 else "context"
        overrides = {"optim.lr": lr, "method.prompts": prompts, "seed": 3}
        if prompts == "both":
            overrides["method.mask.depth"] = 1 + index % 4
        top1 = 0.9 - 0.2 * abs(math.log10(lr) + 3)
        row = LeaderboardRow(str(index), overrides, TrialState.COMPLETE, epochs=3, val_top1=top1)
        trials.append(dataclasses.replace(row, **changes))
    return trials


def test_most_important_setting_comes_first(space):
    ranked = parameter_importance(space, rows(40))
    assert ranked[0]["path"] == "optim.lr"
    assert ranked[0]["importance"] > 0.7
    assert sum(row["importance"] for row in ranked) == pytest.approx(1)
    assert (ranked[0]["status"], ranked[-1]["status"]) == ("ok", "within noise")
    assert ranked[0]["null"] < ranked[0]["importance"]
    assert ranked[-1]["null"] >= ranked[-1]["importance"]


def test_noise_alone_is_within_noise(space):
    noise = np.random.default_rng(1)
    some = [
        dataclasses.replace(row, val_top1=score) for row, score in zip(rows(8), noise.random(8), strict=True)
    ]
    ranked = parameter_importance(space, some)
    assert ranked[0]["importance"] > 0.4, "a share is large by chance"
    assert {row["status"] for row in ranked} == {"within noise"}
    assert parameter_importance(space, some) == ranked, "the permutations have a fixed seed"


def test_single_setting_is_compared_with_its_noise(space):
    only = space.replace({"method.prompts": "context", "method.mask.depth": 1})
    trials = [dataclasses.replace(row, overrides={"optim.lr": row.overrides["optim.lr"]}) for row in rows(40)]
    (row,) = parameter_importance(only, trials)
    assert (row["importance"], row["status"]) == (1.0, "ok")
    shuffled = np.random.default_rng(0).permutation([trial.val_top1 for trial in trials])
    trials = [dataclasses.replace(t, val_top1=score) for t, score in zip(trials, shuffled, strict=True)]
    (row,) = parameter_importance(only, trials)
    assert (row["importance"], row["status"]) == (1.0, "within noise")
    assert row["null"] > 1


def test_effect_of_a_choice_is_found(space):
    trials = [
        dataclasses.replace(
            row, val_top1=0.4 + 0.2 * (row.overrides["method.prompts"] == "both") + index / 1e4
        )
        for index, row in enumerate(rows(40))
    ]
    status = {row["path"]: row["status"] for row in parameter_importance(space, trials)}
    assert status["method.prompts"] == "ok"
    assert status["optim.lr"] == "within noise"


def test_path_with_two_distributions_has_two_rows():
    rates = [
        {"loguniform": [1e-5, 1e-3], "when": {"method.name": ["ev_clip"]}},
        {"loguniform": [1e-3, 1e-1], "when": {"method.name": ["linear_probe"]}},
    ]
    search = {"method.name": {"choice": ["ev_clip", "linear_probe"]}, "optim.lr": rates}
    space = SearchSpace.load("two", {"fixed": {"data.manifest": "none"}, "search": search})
    trials = []
    for index, row in enumerate(rows(16)):
        method = ("ev_clip", "linear_probe")[index % 2]
        point = {"method.name": method, "optim.lr": (1e-4, 1e-2)[index % 2] * (1 + index / 20)}
        trials.append(dataclasses.replace(row, overrides=point))
    table = parameter_importance(space, trials)
    assert len(table) == 3
    assert sum(row["path"].startswith("optim.lr") for row in table) == 2
    assert all(row["importance"] is not None for row in table)


def test_few_failed_or_equal_trials_give_no_importance(space):
    few = parameter_importance(space, rows(7))
    assert {row["status"] for row in few} == {"too few trials: 7, 8 are needed"}
    assert {row["importance"] for row in few} == {None}
    failed = parameter_importance(space, [*rows(7), *rows(30, state=TrialState.FAILED)])
    assert failed[0]["status"].startswith("too few trials: 7")
    equal = parameter_importance(space, rows(20, val_top1=0.5))
    assert equal[0]["status"] == "every trial has the same top-1"


def test_setting_without_values_is_reported(space):
    some = [row for row in rows(40) if row.overrides["method.prompts"] == "context"]
    by_path = {row["path"]: row for row in parameter_importance(space, some)}
    assert by_path["method.mask.depth"]["importance"] is None
    assert by_path["method.mask.depth"]["status"] == "no trial had it"
