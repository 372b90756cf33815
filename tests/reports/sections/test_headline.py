"""Headline of a study: the sentence for each kind of record."""

import math

import pytest
from made_studies import VIDEOS, write_evaluation, write_study

from evclip_ray.artifacts import file_digest, read_json, write_json, write_text
from evclip_ray.metrics.paired import Gain
from evclip_ray.reports.sections.evaluation import Evaluation
from evclip_ray.reports.sections.gains import Scored, gain_of
from evclip_ray.reports.sections.headline import Caveats, sentence, study_headline
from evclip_ray.results import Study

TEST = Scored("on the test split", 0.38, 0.27, 0.49, 0.2, Gain(0.18, 0.1, 0.26, 96, 24))
UNCORRECTED = Scored(
    "on V", 0.46, 0.3, 0.6, 0.18, Gain(0.28, 0.1, 0.4, 25), note="too high", is_optimistic=True
)
TRAINED = {"clip": "openai", "video_encoder": "kinetics"}


@pytest.mark.parametrize(
    ("score", "caveats", "expected"),
    [
        (
            TEST,
            Caveats(),
            "M: top-1 0.38 (0.27 to 0.49) on the test split, against 0.20 for zero-shot CLIP; "
            "the gain of 0.18 (0.10 to 0.26) is beyond chance.",
        ),
        (
            Scored("on V", 0.3, 0.1, 0.5, 0.28, Gain(0.02, -0.1, 0.14, 25)),
            Caveats(),
            "M: top-1 0.30 (0.10 to 0.50) on V, against 0.28 for zero-shot CLIP; "
            "the difference of +0.02 (-0.10 to +0.14) cannot be told from chance on 25 videos.",
        ),
        (
            Scored("on V", 0.3, 0.1, 0.5, 0.5, Gain(-0.2, -0.3, -0.1, 96, 1)),
            Caveats(),
            "M: top-1 0.30 (0.10 to 0.50) on V, against 0.50 for zero-shot CLIP; "
            "it is worse by 0.20 (0.10 to 0.30), which is beyond chance.",
        ),
        (
            UNCORRECTED,
            Caveats(unfinished=1),
            "So far, with 1 trial not ended, M: top-1 0.46 (0.30 to 0.60) on V, too high, against 0.18 for "
            "zero-shot CLIP; the gain of 0.28 (0.10 to 0.40) is not corrected for that choice.",
        ),
        (
            Scored("on V", 0.46, zero_shot=0.18, no_gain="nothing is stored"),
            Caveats(),
            "M: top-1 0.46 on V, against 0.18 for zero-shot CLIP; whether the difference is beyond chance is "
            "not known, because nothing is stored.",
        ),
        (
            Scored("on V", 0.46),
            Caveats(),
            "M: top-1 0.46 on V; zero-shot CLIP was not scored on these videos.",
        ),
        (Scored("on V", 0.46, compares=False), Caveats(), "M: top-1 0.46 on V."),
        (
            TEST,
            Caveats(leaks=True),
            "M: top-1 0.38 (0.27 to 0.49) on the test split, against 0.20 for zero-shot CLIP. "
            "Leaks between the splits make these numbers too high.",
        ),
        (
            TEST,
            Caveats(random=("clip", "video_encoder")),
            "Random weights in clip and video_encoder: these numbers do not reflect a trained CLIP. "
            "M: top-1 0.38 (0.27 to 0.49) on the test split, against 0.20 for zero-shot CLIP.",
        ),
    ],
    ids=[
        "gain", "chance", "worse", "uncorrected", "no_gain", "no_zero_shot", "zero_shot", "leaks", "random",
    ],
)  # fmt: skip
def test_sentence_of_a_score(score, caveats, expected):
    assert sentence("M", score, caveats) == expected


def trained(root, **experiment):
    """Turn a written study into one of trained weights whose best checkpoint has tensors."""
    record = read_json(root / "best" / "config.json")
    record["weights"] = TRAINED
    record["experiment"]["method"] = {**record["experiment"]["method"], **experiment}
    write_json(root / "best" / "config.json", record)
    write_text(root / "best" / "adapter.safetensors", "tensors")
    return root


def evaluation(study, name, **facts):
    """Write an evaluation of the best checkpoint; `facts` change the inputs of its ledger."""
    root = write_evaluation(study / name, split=facts.get("split", "test"))
    ledger = read_json(root / "ledger.json")
    ledger["adapter"] = file_digest(study / "best" / "adapter.safetensors")
    ledger["inputs"]["experiment"]["data"] = {"manifest": "videos.csv"}
    ledger["inputs"] |= facts
    write_json(root / "ledger.json", ledger)
    return Evaluation.load_all(root)


@pytest.fixture
def study(tmp_path):
    return trained(write_study(tmp_path / "study"))


def headline(root, *evaluations):
    return study_headline(Study.load(root), [each for sets in evaluations for each in sets])


def test_test_split_comes_first(study):
    made = headline(study, evaluation(study, "val", split="val", side="val"), evaluation(study, "best-test"))
    assert ": top-1 0.50 (0.30 to 0.70) on the test split, against 0.50 for zero-shot CLIP; " in made.text
    assert "cannot be told from chance on 24 videos" in made.text
    assert made.details[0].startswith("On the validation split: top-1 ")


def test_other_evaluations_are_not_the_test_split(study):
    other = {"experiment": {"method": {"name": "ev_clip"}, "data": {"manifest": "dark.csv"}}}
    made = headline(
        study,
        evaluation(study, "dark", protocol="cross_domain", **other),
        evaluation(
            study,
            "novel",
            side="novel",
            protocol="base_to_novel",
            views={"temporal": 4, "spatial": 3},
        ),
    )
    assert "on the validation split" in made.text
    assert "It was not evaluated on test videos." in made.details
    named = [line for line in made.details if line.startswith(("dark/", "novel/"))]
    assert named[0] == ("dark/ (test, cross_domain): top-1 0.50 (0.30 to 0.70), zero-shot CLIP 0.50.")
    assert "(test, novel, base_to_novel) (4x3 views)" in named[1]


def test_evaluation_of_another_checkpoint_is_not_counted(study):
    sets = evaluation(study, "best-test")
    write_text(study / "best" / "adapter.safetensors", "other tensors")
    made = headline(study, sets)
    assert "on the validation split" in made.text
    assert made.details[-1].startswith("best-test/ scored another checkpoint than best/")


def test_validation_gain_belongs_to_the_stated_score(study):
    sets = evaluation(study, "val", split="val", side="val")
    best, gain = Study.load(study).best, gain_of(sets[0])[0]
    made = headline(study, sets)
    shift = best["val_top1"] - 24 / VIDEOS - gain.value
    assert f"{gain.low + shift:.2f} to {gain.high + shift:.2f}" in made.text.replace("+", "")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"trials": 0}, "No trial has started yet, so there is no result."),
        ({"states": ["failed"] * 6}, "All 6 trials failed, so there is no result. The first error: "),
        ({"trials": 1, "states": ["failed"]}, "The only trial failed, so there is no result. The first "),
        ({"nan_from": 1}, "No trial has a score, so there is no result (6 diverged)."),
        ({"states": ["running"] * 2}, "So far, with 2 trials not ended, EV-CLIP, "),
    ],
)  # fmt: skip
def test_study_without_a_result_says_why(tmp_path, facts, expected):
    root = write_study(tmp_path / "study", **facts)
    if (root / "best").is_dir():
        trained(root)
    assert headline(root).text.startswith(expected)


def test_best_zero_shot_is_compared_with_scored_methods(study):
    best = Study.load(study).best["trial"]
    for point in study.glob("trials/*/point.json"):
        name = "zero_shot" if point.parent.name == best else "ev_clip"
        write_json(point, {"overrides": {"method.name": name}})
    text = headline(study).text
    assert text.startswith("Zero-shot CLIP, which no other method exceeds on validation: top-1 ")
    for point in study.glob("trials/*/point.json"):
        write_json(point, {"overrides": {"method.name": "zero_shot"}})
    assert headline(study).text.startswith("Zero-shot CLIP: top-1 ")


def test_cross_validation_is_named(study):
    ledger = read_json(study / "ledger.json")
    selection = {
        "selection": "last_epoch",
        "folds": 4,
        "train_videos": 9,
        "val_videos": 0,
        "val_per_train": 1,
    }
    write_json(study / "ledger.json", ledger | {"selection": {"0": selection | {"val_per_train": 1}}})
    text = headline(study).text
    assert " in 4-fold cross-validation, " in text
    assert "the predictions of zero-shot CLIP on single validation videos are not stored" in text


def test_values_of_a_balanced_choice_are_compared(study):
    ledger = read_json(study / "ledger.json")
    ledger["inputs"]["search"]["method.prompts"] += " balanced"
    write_json(study / "ledger.json", ledger)
    line = headline(study).details[-1]
    assert line.startswith("Best trial of each value of prompts, not corrected: ")


def test_gain_needs_the_groups_of_grouped_videos(tmp_path):
    (evaluation,) = Evaluation.load_all(write_evaluation(tmp_path / "e"))
    assert gain_of(evaluation)[0].groups is None
    evaluation.ledger["zero_shot"]["groups"] = 8
    gain, reason = gain_of(evaluation)
    assert gain is None
    assert "did not record the groups" in reason
    lines = (tmp_path / "e" / "predictions.csv").read_text().splitlines()
    rows = [f"{lines[0]},group", *(f"{line},{row // 3}" for row, line in enumerate(lines[1:]))]
    write_text(tmp_path / "e" / "predictions.csv", "\n".join(rows))
    assert gain_of(evaluation)[0].groups == 8
    (tmp_path / "e" / "predictions.csv").unlink()
    assert gain_of(evaluation)[1] == "the predictions of single videos are not stored"


def test_gain_of_numbered_classes_compares_text(tmp_path):
    (evaluation,) = Evaluation.load_all(write_evaluation(tmp_path / "e"))
    write_text(tmp_path / "e" / "predictions.csv", "path,label,zero_shot,adapted\na,1,NA,1\nb,NA,NA,NA\n")
    assert math.isclose(gain_of(evaluation)[0].value, 0.5)


def test_bound_of_a_gain_beyond_chance_is_not_zero():
    score = Scored("on V", 0.52, zero_shot=0.52, gain=Gain(0.004, 0.001, 0.007, 10_000))
    assert "the gain of 0.004 (0.001 to 0.007) is beyond chance." in sentence("M", score, Caveats())
    score = Scored("on V", 0.52, zero_shot=0.52, gain=Gain(-0.02, -0.04, -0.0002, 10_000))
    assert "worse by 0.0200 (0.0002 to 0.0400), which" in sentence("M", score, Caveats())
