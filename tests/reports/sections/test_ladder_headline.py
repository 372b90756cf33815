"""Headline of a ladder."""

import pytest
from made_studies import write_ladder

from evclip_ray.artifacts import read_json, write_json, write_text
from evclip_ray.reports.sections.ladder import ladder_report
from evclip_ray.reports.sections.ladder_headline import (
    Climb,
    change,
    ladder_headline,
    sentence,
    too_few_steps,
)
from evclip_ray.results import Ladder

BEST = {"rung": "large", "val_top1": 0.66, "val_top1_low": 0.55, "val_top1_high": 0.76}
CORRECTED = {"corrected_top1": 0.61, "corrected_top1_low": 0.5, "corrected_top1_high": 0.72}
RISE = Climb("small", "large", 0.16, 0.05, 0.27)


@pytest.mark.parametrize(
    ("climbed", "expected"),
    [
        (RISE, "from small to large, top-1 rises by 0.16 (0.05 to 0.27), which is beyond chance"),
        (
            Climb("a", "b", -0.2, -0.3, -0.1),
            "from a to b, top-1 falls by 0.20 (0.10 to 0.30), which is beyond chance",
        ),
        (
            Climb("a", "b", 0.1, -0.1, 0.3),
            "from a to b, top-1 changes by +0.10 (-0.10 to +0.30), which cannot be told from chance",
        ),
        (
            Climb("a", "b", 0.1, float("nan"), float("nan")),
            "from a to b, top-1 changes by +0.10, with an unknown interval",
        ),
    ],
    ids=["rise", "fall", "chance", "no_interval"],
)
def test_change_is_judged_by_its_interval(climbed, expected):
    assert change(climbed) == expected


@pytest.mark.parametrize(
    ("best", "steps", "scored", "climbed", "expected"),
    [
        (BEST, 3, 3, RISE, "Of 3 steps, large is the best, with top-1 0.66 (0.55 to 0.76) on validation; "),
        (BEST | CORRECTED, 3, 2, RISE, "Of 2 scored steps among 3, large is the best, with top-1 0.61 (0.50"),
        (BEST, 3, 1, None, "Only large of 3 steps has a score, top-1 0.66 (0.55 to 0.76) on validation: "),
        (BEST, 1, 1, None, "The only step, large, has top-1 0.66 (0.55 to 0.76) on validation. A "),
    ],
)  # fmt: skip
def test_sentence_of_a_ladder(best, steps, scored, climbed, expected):
    assert sentence(best, steps, scored, climbed).startswith(expected)


def test_random_weights_of_a_ladder_have_no_verdict(tmp_path):
    text = ladder_headline(Ladder.load(write_ladder(tmp_path))).text
    assert text.startswith("Random weights in clip: these numbers do not reflect a trained CLIP. Of 3 ")
    assert "chance" not in text


def test_ladder_with_leaks_or_waiting_steps_is_qualified(tmp_path):
    root = write_ladder(tmp_path)
    for path in root.glob("rungs/*/trials/*/history.jsonl"):
        write_text(path, path.read_text().replace('"leaking_rows": 0', '"leaking_rows": 2'))
    for path in root.glob("rungs/*/best/config.json"):
        write_json(path, read_json(path) | {"weights": {"clip": "openai"}})
    table = (root / "ladder.csv").read_text()
    write_text(root / "ladder.csv", table.replace("large,finished", "large,interrupted"))
    text = ladder_headline(Ladder.load(root)).text
    assert text.startswith("So far: Of 3 steps, ")
    assert text.endswith(". Leaks between the splits make these numbers too high.")
    assert "chance" not in text


def test_ladder_without_a_score_names_the_states(tmp_path):
    root = write_ladder(tmp_path, failed=("small", "middle", "large"))
    assert ladder_headline(Ladder.load(root)).text.endswith("so there is no result (3 failed).")
    (root / "ladder.csv").unlink()
    assert ladder_headline(Ladder.load(root)).text.startswith("No step has started yet")


def test_unfinished_ladder_names_missing_steps_once(tmp_path):
    root = write_ladder(tmp_path, steps=("only", "large"), failed=("large",))
    write_json(root / "ledger.json", read_json(root / "ledger.json") | {"command": "evclip-ray scale debug"})
    ladder = Ladder.load(root)
    (line,) = too_few_steps(ladder)
    assert line == "There are not enough steps for curves of accuracy over cost (1 usable, 4 needed)."
    report = ladder_report(ladder)
    assert line in report.headline.details
    assert "not enough steps" not in str(report.sections)
    assert [command.line for command in report.commands] == ["evclip-ray scale debug"]
