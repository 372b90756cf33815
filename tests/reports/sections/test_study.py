"""Report of a study: the best score and its correction for the choice."""

import json

import numpy as np
import pytest
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


def speed_of(root):
    (section,) = (each for each in study_report(Study.load(root)).sections if each.name == "speed")
    return section.blocks


def test_report_names_the_speed_of_the_trials_in_a_line(tmp_path):
    root = write_study(tmp_path / "study", trials=2, epochs=1)
    for history, share in zip(sorted(root.glob("trials/*/history.jsonl")), (0.2, 0.4), strict=True):
        shares = {"matrix_share": share, "wait_share": 0.012}
        history.write_text("".join(json.dumps({**epoch, **shares}) + "\n" for epoch in read_history(history)))
    record = read_json(root / "best" / "config.json")
    device = {"device": "a card", "matrix_format": "bfloat16", "threads": None}
    write_json(root / "best" / "config.json", record | {"speed": {"matrix_flop_per_second": 5e12, **device}})
    write_json(root / "ledger.json", read_json(root / "ledger.json") | {"gpu_share": {"count": 4}})
    line, table = speed_of(root)
    assert line.text == (
        "A training step used 30 % of the device's matrix rate (5 TFLOP/s in bfloat16 on a card) and ran at "
        "– of the bare model's videos/s. It waited for input for 1.2 % of its time. These are medians of 2 "
        "trials. 4 trials shared a GPU, and their shares of its matrix rate add up."
    )
    assert sorted(table.view["of the matrix rate"]) == ["20 %", "40 %"]
    assert Study.load(root).speed == pytest.approx({"matrix_share": 0.3, "wait_share": 0.012})


def test_speed_of_an_old_study_is_a_dash(tmp_path):
    (line,) = speed_of(write_study(tmp_path / "study", trials=1, epochs=1))
    assert line.text.startswith("A training step used – of the device's matrix rate and ran at – of")
    assert line.text.endswith("An earlier version ran the trials and did not measure this.")
