"""What a study takes from an earlier one, and what it leaves: without Ray, on folders written here."""

import json
import shutil

import optuna
import pytest
from optuna.trial import TrialState

from evclip_ray.artifacts import write_json
from evclip_ray.config import ConfigError
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.optuna_storage import EVIDENCE, count_missing
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.tuner import StudyRun, identity
from evclip_ray.tuning.warm_start import apply_warm_start, read_warm_start

SEARCH = {
    "optim.lr": {"loguniform": [1e-3, 1e-2]},
    "method.prompts": {"choice": ["both", "context"]},
    "method.mask.depth": {"int": [1, 2], "when": {"method.prompts": ["both"]}},
}


@pytest.fixture
def make_space(tiny_manifest, debug_settings):
    def make(search=SEARCH, fixed=None):
        settings = {"data.manifest": str(tiny_manifest), **debug_settings, **(fixed or {})}
        return SearchSpace.load("tiny", {"fixed": settings, "search": search})

    return make


def write_study(root, space, trials, *, measured="same rows"):
    """A study's folder as it is left: `trials` are (overrides, top-1 by epoch, state)."""
    folder = StudyFolder(root)
    folder.claim(identity(space))
    write_json(folder.fixed, dict(space.fixed))
    folder.note(measured={videos_key(space.experiment(o)): measured for o, _, _ in trials})
    for index, (overrides, scores, state) in enumerate(trials):
        name = f"trial-{index:04d}"
        folder.begin(name, overrides)
        history = [
            {
                "epoch": epoch, "val_top1": score, "best_val_top1": max(scores[:epoch]), "val_loss": 1.0,
                "best_epoch": 1 + scores.index(max(scores[:epoch])), "val_videos": 6, "seconds": 1.0,
            }
            for epoch, score in enumerate(scores, start=1)
        ]  # fmt: skip
        lines = "".join(json.dumps(line) + "\n" for line in history)
        (folder.trial(name) / "history.jsonl").write_text(lines)
        if state:
            write_json(folder.trial(name) / "result.json", {"state": state, "error": None})
    return root


TRIALS = [
    ({"optim.lr": 2e-3, "method.prompts": "context"}, [0.2, 0.5], "complete"),
    ({"optim.lr": 3e-3, "method.prompts": "both", "method.mask.depth": 2}, [0.3, 0.8], "complete"),
    ({"optim.lr": 4e-3, "method.prompts": "context"}, [0.1], "stopped"),
    ({"optim.lr": 5e-3, "method.prompts": "context"}, [0.1], None),
]


def read(root, space, *, measured="same rows", most_points=3):
    return read_warm_start(root, space, measured=lambda _: measured, most_points=most_points)


def test_the_best_points_come_first_and_the_ended_trials_are_evidence(make_space, tmp_path):
    space = make_space()
    found = read(write_study(tmp_path, space, TRIALS), space, most_points=2)
    assert found.points == (TRIALS[1][0], TRIALS[0][0])
    assert [piece.values for piece in found.evidence] == [{1: 0.3, 2: 0.8}, {1: 0.2, 2: 0.5}, {1: 0.1}]
    assert found.left_out == {"not finished": 1}
    assert "its 2 best points first; 3 of its 4 trials as evidence (1 not finished)" in str(found)


def test_points_outside_of_this_space_or_with_other_paths_are_left_out(make_space, tmp_path):
    root = write_study(tmp_path, make_space(), TRIALS[:2])
    narrow = make_space({**SEARCH, "optim.lr": {"loguniform": [1e-3, 2.5e-3]}})
    found = read(root, narrow)
    assert found.points == (TRIALS[0][0],)
    assert found.left_out == {"outside of this space": 1}
    other = make_space({"method.mask.heads": {"choice": [4]}})
    assert read(root, other).left_out == {"outside of this space": 2}


def test_a_setting_that_was_fixed_and_is_now_searched_is_read_from_the_experiment(make_space, tmp_path):
    root = write_study(tmp_path, make_space(), TRIALS[:1])
    wider = make_space({**SEARCH, "optim.weight_decay": {"uniform": [0.0, 0.1]}})
    found = read(root, wider)
    assert found.points == ({**TRIALS[0][0], "optim.weight_decay": 0.05},)
    assert len(found.evidence) == 1


@pytest.mark.parametrize(
    ("fixed", "measured", "reason"),
    [
        ({"optim.epochs": 7}, "same rows", "of other settings"),
        ({}, "other rows", "measured on other videos"),
    ],
)
def test_scores_of_something_else_only_say_where_to_look(make_space, tmp_path, fixed, measured, reason):
    root = write_study(tmp_path, make_space(), TRIALS[:2])
    found = read(root, make_space(fixed=fixed), measured=measured)
    assert len(found.points) == 2
    assert found.evidence == ()
    assert found.left_out == {reason: 2}


def test_another_seed_of_the_same_experiment_is_evidence(make_space, tmp_path):
    root = write_study(tmp_path, make_space(fixed={"seed": 5}), TRIALS[:1])
    assert len(read(root, make_space()).evidence) == 1


def test_a_folder_that_is_no_study_is_refused_in_one_line(make_space, tmp_path):
    with pytest.raises(ConfigError, match="must be the folder of an earlier study"):
        read(tmp_path, make_space())


def test_evidence_teaches_the_sampler_and_is_counted_nowhere(make_space, tmp_path):
    space = make_space()
    found = read(write_study(tmp_path, space, TRIALS), space)
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        apply_warm_start(study, space, found)
    evidence = [t for t in study.trials if EVIDENCE in t.user_attrs]
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    assert [t.state for t in evidence] == states, "a second time changes nothing"
    assert [t.value for t in evidence][:2] == [0.8, 0.5]
    assert evidence[2].intermediate_values == {1: 0.1}
    assert count_missing(study, 4) == 4
    assert space.sample(study.ask()) == TRIALS[1][0]


def test_a_study_takes_an_earlier_one_in_once_and_does_without_it_afterwards(
    make_space, tiny_cache, tiny_videos, tmp_path
):
    space = make_space()
    earlier = write_study(tmp_path / "earlier", space, TRIALS)
    # What it was measured on, as a study notes it.
    run = StudyRun(space, tmp_path / "new", cache=tiny_cache, warm_start=[earlier])
    key = videos_key(space.experiment())
    StudyFolder(earlier).note(measured={key: run._measured_on(space.experiment())})
    run.claim()
    study = run._optuna()
    run._take_in(study)
    noted = run.folder.ledger()["warm_start"]
    assert [(w["folder"], w["evidence"]) for w in noted] == [(str(earlier), 3)]
    assert noted[0]["study"] == StudyFolder(earlier).ledger()["key"]
    shutil.rmtree(earlier)
    again = StudyRun(space, tmp_path / "new", cache=tiny_cache, warm_start=[earlier])
    assert again._warm_starts() == []
    assert again.missing() == 16
    with pytest.raises(ValueError, match="is the study itself"):
        StudyRun(space, tmp_path / "new", cache=tiny_cache, warm_start=[tmp_path / "new"])._warm_starts()
