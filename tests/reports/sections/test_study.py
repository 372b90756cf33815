"""Report of a study: the best score and its correction for the choice."""

import numpy as np
from made_studies import VIDEOS, write_study

from evclip_ray.artifacts import read_history, read_json, write_json
from evclip_ray.reports.sections.conditions import study_conditions
from evclip_ray.reports.sections.study import study_report
from evclip_ray.results import Study
from evclip_ray.training.per_video_scores import EpochAnswers


def write_answers(study):
    """Add the answers of each epoch to the trials: as many random videos are right as the history says."""
    random = np.random.default_rng(0)
    for trial in (study / "trials").iterdir():
        answers = EpochAnswers.empty("0123", VIDEOS, None)
        for epoch in read_history(trial / "history.jsonl"):
            right = random.permutation(VIDEOS) < round(epoch["val_top1"] * VIDEOS)
            answers = answers.with_epoch(epoch["epoch"], right)
        (trial / "last").mkdir()
        for name in ("config.json", "adapter.safetensors"):
            (trial / "last" / name).write_text("{}")
        answers.write(trial / "last")


def test_report_names_both_scores_of_the_best_trial(tmp_path):
    root = write_study(tmp_path / "study")
    write_answers(root)
    best = Study.load(root).best
    assert best["corrected_top1"] < best["val_top1"]
    facts = study_report(Study.load(root)).facts
    assert facts["best of 6 trials x 4 epochs, optimistic"].startswith(f"top-1 {best['val_top1']:.3f} (95 %")
    assert facts["corrected for the choice"].startswith(f"top-1 {best['corrected_top1']:.3f} (95 % interval")


def test_report_of_old_study_says_why_correction_is_missing(tmp_path):
    facts = study_report(Study.load(write_study(tmp_path / "study"))).facts
    assert facts["corrected for the choice"].startswith("missing: 6 of 6 trials have no record")


def test_conditions_name_the_domain_of_the_small_world(tmp_path):
    root = write_study(tmp_path / "study")
    record = read_json(root / "best" / "config.json")
    record["experiment"]["data"] = {"world": {"domain": "dark", "dial": 0.5}}
    write_json(root / "best" / "config.json", record)
    assert study_conditions(Study.load(root))["videos"] == "small world, dark, dial 0.5"


def test_report_lists_the_best_of_each_balanced_value(tmp_path):
    root = write_study(tmp_path / "study")
    assert Study.load(root).by_value.empty
    ledger = read_json(root / "ledger.json")
    ledger["inputs"]["search"]["method.prompts"] += " balanced"
    write_json(root / "ledger.json", ledger)
    study = Study.load(root)
    table = study_report(study).sections[0].blocks[0]
    assert table.title == "Best trial of each method.prompts"
    assert table.data["trials"].sum() == 6
    assert table.data["best_trial"].iloc[0] == study.best["trial"]
