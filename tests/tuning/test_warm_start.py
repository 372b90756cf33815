"""Warm start from earlier studies, without Ray, on folders that the tests write."""

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
    """Write the folder of a study. `trials` are (overrides, top-1 by epoch, state)."""
    folder = StudyFolder(root)
    folder.claim(identity(space))
    write_json(folder.fixed, dict(space.fixed))
    folder.note(measured={videos_key(space.experiment(o)): measured for o, _, _ in trials})
    for index, (overrides, scores, state) in enumerate(trials):
        name = f"trial-{index:04d}"
        folder.begin(name, overrides)
        history = [
            {
                "epoch": epoch,
                "val_top1": score,
                "best_val_top1": max(scores[:epoch]),
                "val_loss": 1.0,
                "best_epoch": 1 + scores.index(max(scores[:epoch])),
                "val_videos": 6,
                "seconds": 1.0,
            }
            for epoch, score in enumerate(scores, start=1)
        ]
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


def test_best_points_come_first_and_ended_trials_are_added(make_space, tmp_path):
    space = make_space()
    warm_start = read(write_study(tmp_path, space, TRIALS), space, most_points=2)
    assert warm_start.points == (TRIALS[1][0], TRIALS[0][0])
    assert [piece.values for piece in warm_start.evidence] == [{1: 0.3, 2: 0.8}, {1: 0.2, 2: 0.5}, {1: 0.1}]
    assert warm_start.left_out == {"not finished": 1}
    assert "its 2 best points first; 3 of its 4 trials as evidence (1 not finished)" in str(warm_start)


def test_points_outside_the_space_are_skipped(make_space, tmp_path):
    root = write_study(tmp_path, make_space(), TRIALS[:2])
    narrow = make_space({**SEARCH, "optim.lr": {"loguniform": [1e-3, 2.5e-3]}})
    warm_start = read(root, narrow)
    assert warm_start.points == (TRIALS[0][0],)
    assert warm_start.left_out == {"outside of this space": 1}
    other = make_space({"method.mask.heads": {"choice": [4]}})
    assert read(root, other).left_out == {"outside of this space": 2}


def test_newly_searched_setting_is_read_from_the_experiment(make_space, tmp_path):
    root = write_study(tmp_path, make_space(), TRIALS[:1])
    wider = make_space({**SEARCH, "optim.weight_decay": {"uniform": [0.0, 0.1]}})
    warm_start = read(root, wider)
    assert warm_start.points == ({**TRIALS[0][0], "optim.weight_decay": 0.05},)
    assert len(warm_start.evidence) == 1


@pytest.mark.parametrize(
    ("fixed", "measured", "reason"),
    [
        ({"optim.epochs": 7}, "same rows", "of other settings"),
        ({}, "other rows", "measured on other videos"),
    ],
)
def test_scores_of_another_metric_only_enqueue_points(make_space, tmp_path, fixed, measured, reason):
    root = write_study(tmp_path, make_space(), TRIALS[:2])
    warm_start = read(root, make_space(fixed=fixed), measured=measured)
    assert len(warm_start.points) == 2
    assert warm_start.evidence == ()
    assert warm_start.left_out == {reason: 2}


def test_trials_of_another_seed_are_added(make_space, tmp_path):
    root = write_study(tmp_path, make_space(fixed={"seed": 5}), TRIALS[:1])
    assert len(read(root, make_space()).evidence) == 1


def test_folder_without_a_study_is_refused_in_one_line(make_space, tmp_path):
    with pytest.raises(ConfigError, match="must be the folder of an earlier study"):
        read(tmp_path, make_space())


def test_earlier_trials_reach_only_the_sampler(make_space, tmp_path):
    space = make_space()
    warm_start = read(write_study(tmp_path, space, TRIALS), space)
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        apply_warm_start(study, space, warm_start)
    evidence = [t for t in study.trials if EVIDENCE in t.user_attrs]
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    assert [t.state for t in evidence] == states, "a second call changes nothing"
    assert [t.value for t in evidence][:2] == [0.8, 0.5]
    assert evidence[2].intermediate_values == {1: 0.1}
    assert count_missing(study, 4) == 4
    assert space.sample(study.ask()) == TRIALS[1][0]


def test_earlier_study_is_read_once_and_not_needed_later(make_space, tiny_cache, tiny_videos, tmp_path):
    space = make_space()
    earlier = write_study(tmp_path / "earlier", space, TRIALS)
    # Note the videos that the earlier study was measured on, as a real study does.
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


def test_evidence_has_the_values_of_this_studys_objective(make_space, tmp_path):
    trials = [
        ({"optim.lr": 2e-3, "method.prompts": "context"}, [0.7, 0.2], "complete"),
        ({"optim.lr": 3e-3, "method.prompts": "context"}, [0.3, 0.5], "complete"),
    ]
    space = make_space()
    root = write_study(tmp_path, space, trials)
    by_best, by_last = read(root, space), read(root, space.replace(study={"objective": "last"}))
    assert [piece.values for piece in by_best.evidence] == [{1: 0.7, 2: 0.7}, {1: 0.3, 2: 0.5}]
    assert [piece.values for piece in by_last.evidence] == [{1: 0.3, 2: 0.5}, {1: 0.7, 2: 0.2}]
    assert by_last.points == (trials[1][0], trials[0][0])


def test_warm_points_of_a_list_keep_their_parameters(tiny_manifest, debug_settings, tmp_path):
    fixed = {path: value for path, value in debug_settings.items() if not path.startswith("method.")}
    search = {
        "method.name": {"choice": ["coop", "prototype"], "balanced": True},
        "optim.lr": [
            {"loguniform": [1e-3, 1e-2], "when": {"method.name": "coop"}},
            {"loguniform": [1e-4, 1e-3], "when": {"method.name": "prototype"}},
        ],
    }
    space = SearchSpace.load(
        "listed", {"fixed": {"data.manifest": str(tiny_manifest), **fixed}, "search": search}
    )
    point = {"method.name": "prototype", "optim.lr": 5e-4}
    warm_start = read(write_study(tmp_path, space, [(point, [0.5], "complete")]), space)
    study = optuna.create_study(direction="maximize")
    apply_warm_start(study, space, warm_start)
    assert study.trials[0].params == space.params_of(point)
    assert space.sample(study.ask()) == point
