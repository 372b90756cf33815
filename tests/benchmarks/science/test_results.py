"""Accuracies, paired gains and verdicts from records."""

import dataclasses

import numpy as np
import pytest
from science.experiments import CLAIMS, SIZES, all_experiments, study, trained, zero_shot_on
from science.results import Results, mcnemar
from science.settings import HELD_OUT, world_set
from science.verdicts import all_rows

SEEDS = (0, 1, 2)


def record(**right):
    count = len(next(iter(right.values())))
    bits = {name: np.packbits(flags).tobytes().hex() for name, flags in right.items()}
    return {"test": {"videos": "v", "count": count, "groups": list(range(count)), "right": bits}}


def test_gain_is_the_mean_over_seeds():
    runs = [trained("both", world_set("clutter"), seed) for seed in SEEDS]
    before = np.arange(40) < 10
    after = [np.arange(40) < hits for hits in (20, 24, 28)]
    records = {
        run.key: record(zero_shot=before, adapted=right) for run, right in zip(runs, after, strict=True)
    }

    gain = Results(records, SEEDS).gain(runs)

    assert gain.value == pytest.approx(0.35)
    assert 0.15 < gain.low < gain.value < gain.high < 0.55
    assert gain.seeds == 3


def test_gain_of_half_measured_runs_counts_its_seeds():
    runs = [trained("both", world_set("clutter"), seed) for seed in SEEDS]
    right = record(zero_shot=np.zeros(8, bool), adapted=np.ones(8, bool))

    assert Results({runs[1].key: right}, SEEDS).gain(runs).seeds == 1


def test_mcnemar_matches_the_binomial_test():
    before, after = np.array([1, 0, 0, 0, 0, 1.0]), np.array([0, 1, 1, 1, 1, 1.0])

    assert mcnemar(before, after) == pytest.approx(2 * (1 + 5) / 2**5)
    assert mcnemar(before, before) == 1


@pytest.mark.parametrize(("hits", "state"), [(15, "holds"), (14, "fails")])
def test_claim_a_holds_from_three_quarters(hits, state):
    experiment = zero_shot_on(HELD_OUT["plain"])
    results = Results({experiment.key: record(zero_shot=np.arange(20) < hits)}, SEEDS)

    first = all_rows(results)[0]

    assert (first.claim, first.state) == ("a", state)


@pytest.mark.parametrize(("score", "share"), [(0.6, "1.00"), (0.7, "0.50"), (0.9, "0.00")])
def test_coverage_allows_for_the_error_of_the_test_videos(score, share):
    # 20 and 24 of 40 videos are right: their accuracies have an error of 0.15 to each side.
    intervals = {
        "best_interval": (score - 0.1, score + 0.1),
        "corrected_interval": (score - 0.1, score + 0.1),
    }
    found = {
        study(number).key: record(adapted=np.arange(40) < hits)
        | {"best": score, "corrected": score, **intervals}
        for number, hits in enumerate((20, 24))
    }

    rows = {row.text: row.measured for row in all_rows(Results(found, SEEDS))}

    assert rows["coverage of the corrected interval"].startswith(share)


@pytest.mark.parametrize(
    ("hits", "state"), [((20, 30, 28), "holds"), ((20, 30, 20), "fails"), ((20, 30), "not measured")]
)
def test_accuracy_over_sizes_is_judged_by_the_largest(hits, state):
    runs = [zero_shot_on(world_set("plain"), size) for size in SIZES]
    right = [record(zero_shot=np.arange(40) < number) for number in hits]
    results = Results({run.key: each for run, each in zip(runs, right, strict=False)}, SEEDS)

    (row,) = (row for row in all_rows(results) if row.text.endswith("plain") and row.claim == "j")

    assert row.state == state
    assert row.measured.startswith(", ".join(f"{number / 40:.2f}" for number in hits))


def test_all_rows_without_records_are_not_measured():
    rows = all_rows(Results({}, SEEDS))

    assert {row.claim for row in rows} == set(CLAIMS)
    assert {row.state for row in rows} == {"not measured"}


def test_all_experiments_share_equal_runs():
    keys = [experiment.key for experiment in all_experiments(CLAIMS, SEEDS)]

    assert len(keys) == len(set(keys))
    assert trained("both", world_set("clutter"), 0).key in keys


def test_key_changes_with_every_part():
    run = trained("both", world_set("clutter"), 0)
    others = [
        dataclasses.replace(run, seed=1),
        dataclasses.replace(run, world=world_set("dark")),
        dataclasses.replace(run, kind="untrained"),
        trained("both", world_set("clutter"), 0, settings={"optim.lr": 1e-4}),
    ]

    assert len({run.key, *(other.key for other in others)}) == 5
