import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_studies import CLASSES, without_stages, write_evaluation, write_study

from evclip_ray.artifacts import file_digest, write_ledger
from evclip_ray.cli import main

MASKS = "The mask multiplies the normalised pixels"
MARKUP = ("<script>alert(1)</script>", "</script><b>", 'say "hi" & | `x`')


@pytest.fixture
def report(tmp_path):
    def run(*arguments, fails=False):
        result = CliRunner().invoke(
            main, ["report", *map(str, arguments), "--cache", str(tmp_path / "cache")]
        )
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    return run


def with_evaluation(study, **facts):
    """Add the evaluation of the best trial that an earlier report stored."""
    write_evaluation(study / "report" / "best-val", **facts)
    return study


def embedded(page: Path, name: str):
    text = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(), re.S)[
        1
    ]
    return json.loads(text)


def test_report_writes_page_markdown_and_tables(tmp_path, report):
    study = with_evaluation(write_study(tmp_path / "mine", trials=4), masks=True)
    report(study)
    page = (study / "report.html").read_text()
    notes = (study / "report.md").read_text()
    assert "Study mine" in page
    assert "# Study mine" in notes
    assert {"history", "curves_top1", "gains_val", "confusion_val"} <= set(
        embedded(study / "report.html", "charts")
    )
    # Two videos, each with three pictures on the first screen, the same three and all frames in its section.
    assert page.count("data:image/webp;base64,") == 2 * (3 + 3 + 1)
    for name in ("leaderboard", "history", "confusion_val", "conditions"):
        assert (study / "report" / f"{name}.csv").is_file()
    links = re.findall(r"\((report/[^)]+)\)", notes)
    assert links
    assert all((study / link).is_file() for link in links)


def test_page_has_no_external_references(tmp_path, report):
    study = with_evaluation(write_study(tmp_path / "mine", trials=2), masks=True)
    report(study)
    page = (study / "report.html").read_text()
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    # Links lead to files of the study. Everything that is loaded is part of the page.
    markup, links = re.subn(r'<a [^>]*?href="(?:#|\.\./|[\w.])[^":]*"', "", markup)
    assert links > 5
    references = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"|url\(([^)]*)\)|@import', markup)
    assert all(link.startswith("data:") for link, _ in references if link)
    assert not [url for _, url in references if url]


def test_page_names_sources_and_conditions(tmp_path, report):
    study = with_evaluation(write_study(tmp_path / "mine", trials=2))
    report(study)
    page = (study / "report.html").read_text()
    for path in (study / "zero_shot" / "0123.json", study / "report" / "best-val" / "per_class.csv"):
        assert file_digest(path) in page
        assert file_digest(path) in (study / "report.md").read_text()
    with (study / "report" / "history.csv").open() as stream:
        conditions = {row["conditions"] for row in csv.DictReader(stream)}
    assert len(conditions) == 1
    for fact in (
        "validation split, 72 videos",
        "few-shot, 16",
        "1 seed",
        "A video of {}.",
        "git 0123abc",
        "clip random",
    ):
        assert fact in next(iter(conditions))


def test_random_weights_are_warned_about(tmp_path, report):
    study = write_study(tmp_path / "mine", trials=2)
    report(study)
    assert "RANDOM WEIGHTS in clip" in (study / "report.html").read_text()
    assert "**RANDOM WEIGHTS in clip" in (study / "report.md").read_text()


def test_class_names_with_markup_are_escaped(tmp_path, report):
    study = with_evaluation(
        write_study(tmp_path / "mine", trials=2, classes=MARKUP), classes=MARKUP, masks=True
    )
    report(study)
    page = (study / "report.html").read_text()
    assert "<script>alert" not in page
    assert page.count("</script>") == page.count("<script")
    assert "&lt;script&gt;alert(1)" in page
    assert embedded(study / "report.html", "data")["gains_val"]["rows"]
    named = {row[0] for row in embedded(study / "report.html", "data")["confusion_val"]["rows"]}
    assert named == set(MARKUP)
    assert "<script>" not in (study / "report.md").read_text()


def test_markdown_escapes_names_of_folders(tmp_path, report):
    study = write_study(tmp_path / "<b>a & b", trials=2)
    report(study)
    assert "# Study &lt;b&gt;a &amp; b" in (study / "report.md").read_text()


@pytest.mark.parametrize("facts", [{"trials": 0}, {"trials": 2, "states": ["failed", "failed"]}])
def test_study_without_scores_is_reported(tmp_path, report, facts):
    study = write_study(tmp_path / "mine", **facts)
    report(study)
    assert "No trial has finished an epoch yet" in (study / "report.html").read_text()


@pytest.mark.parametrize(
    "facts",
    [{"trials": 1}, {"trials": 1, "epochs": 1}, {"trials": 3, "states": ["diverged"] * 3, "nan_from": 1}],
)
def test_study_of_one_trial_or_nan_is_reported(tmp_path, report, facts):
    study = write_study(tmp_path / "mine", **facts)
    report(study)
    assert "NaN" not in re.sub(r"<script type=.module.*", "", (study / "report.html").read_text(), flags=re.S)


def test_moved_study_shows_its_earlier_masks(tmp_path, report):
    study = with_evaluation(write_study(tmp_path / "mine", trials=2), masks=True)
    moved = tmp_path / "elsewhere" / "theirs"
    shutil.move(study, moved)
    assert "an earlier result is shown" in report(moved)
    assert MASKS in (moved / "report.html").read_text()


def test_unwritable_place_is_refused_with_out(tmp_path, report):
    study = with_evaluation(write_study(tmp_path / "mine", trials=2), masks=True)
    # A file in place of the folder: root cannot write there either.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    output = report(study, "--out", blocked / "report.html", fails=True)
    assert "cannot be written to" in output
    assert "--out" in output
    report(study, "--out", tmp_path / "out" / "mine.html")
    assert MASKS in (tmp_path / "out" / "mine.html").read_text()
    assert (tmp_path / "out" / "mine" / "leaderboard.csv").is_file()


def test_folder_of_other_stage_is_refused_in_one_line(tmp_path, report):
    write_ledger(tmp_path / "other", "features", inputs={})
    output = report(tmp_path / "other", fails=True)
    assert "must be the folder of a study or a ladder" in output
    assert len(without_stages(output)) == 1


def test_evaluation_keeps_its_own_conditions(tmp_path, report):
    study = write_study(tmp_path / "mine", trials=2)
    write_evaluation(study / "best-test", split="test", classes=CLASSES)
    # A folder of a similar name without a ledger is not an evaluation.
    (study / "best-of-all").mkdir()
    report(study)
    with (study / "report" / "gains_test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["conditions"].startswith("test split, 24 videos")
    assert "The best trial on the test split" in (study / "report.md").read_text()
