import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_studies import CLASSES, write_evaluation, write_study

from evclip_ray.artifacts import file_digest, write_ledger
from evclip_ray.cli import main

WICKED = ("<script>alert(1)</script>", "</script><b>", 'say "hi" & | `x`')


@pytest.fixture
def report(tmp_path):
    def run(*arguments, fails=False):
        found = CliRunner().invoke(main, ["report", *map(str, arguments), "--cache", str(tmp_path / "cache")])
        assert (found.exit_code != 0) == fails, found.output
        return found.output

    return run


def saved(study, **facts):
    """What an earlier report kept of the best trial."""
    write_evaluation(study / "report" / "best-val", **facts)
    return study


def embedded(page: Path, name: str):
    text = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(), re.S)[
        1
    ]
    return json.loads(text)


def test_a_report_is_one_page_with_markdown_and_tables_beside_it(tmp_path, report):
    study = saved(write_study(tmp_path / "mine", trials=4), masks=True)
    report(study)
    page = (study / "report.html").read_text()
    notes = (study / "report.md").read_text()
    assert "Study mine" in page
    assert "# Study mine" in notes
    assert {"history", "curves_top1", "gains_val", "confusion_val"} <= set(
        embedded(study / "report.html", "charts")
    )
    assert page.count("data:image/webp;base64,") == 2 * 3
    for name in ("leaderboard", "history", "confusion_val", "conditions"):
        assert (study / "report" / f"{name}.csv").is_file()
    links = re.findall(r"\((report/[^)]+)\)", notes)
    assert links
    assert all((study / link).is_file() for link in links)


def test_the_page_asks_for_nothing_from_anywhere(tmp_path, report):
    study = saved(write_study(tmp_path / "mine", trials=2), masks=True)
    report(study)
    page = (study / "report.html").read_text()
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    found = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"|url\(([^)]*)\)|@import', markup)
    assert all(one.startswith(("#", "data:")) for one, _ in found if one)
    assert not [two for _, two in found if two]


def test_every_number_says_where_it_is_from(tmp_path, report):
    study = saved(write_study(tmp_path / "mine", trials=2))
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


def test_random_weights_are_loud(tmp_path, report):
    study = write_study(tmp_path / "mine", trials=2)
    report(study)
    assert "RANDOM WEIGHTS in clip" in (study / "report.html").read_text()
    assert "**RANDOM WEIGHTS in clip" in (study / "report.md").read_text()


def test_class_names_with_markup_stay_text(tmp_path, report):
    study = saved(write_study(tmp_path / "mine", trials=2, classes=WICKED), classes=WICKED, masks=True)
    report(study)
    page = (study / "report.html").read_text()
    assert "<script>alert" not in page
    assert page.count("</script>") == page.count("<script")
    assert "&lt;script&gt;alert(1)" in page
    assert embedded(study / "report.html", "data")["gains_val"]["rows"]
    named = {row[0] for row in embedded(study / "report.html", "data")["confusion_val"]["rows"]}
    assert named == set(WICKED)
    assert "<script>" not in (study / "report.md").read_text()


@pytest.mark.parametrize("made", [{"trials": 0}, {"trials": 2, "states": ["failed", "failed"]}])
def test_a_study_without_a_finished_trial_says_so(tmp_path, report, made):
    study = write_study(tmp_path / "mine", **made)
    report(study)
    assert "No trial has finished an epoch yet" in (study / "report.html").read_text()


@pytest.mark.parametrize(
    "made",
    [{"trials": 1}, {"trials": 1, "epochs": 1}, {"trials": 3, "states": ["diverged"] * 3, "nan_from": 1}],
)
def test_one_trial_or_nothing_but_nan_is_reported(tmp_path, report, made):
    study = write_study(tmp_path / "mine", **made)
    report(study)
    assert "NaN" not in re.sub(r"<script type=.module.*", "", (study / "report.html").read_text(), flags=re.S)


def test_a_moved_study_is_reported_from_where_it_is(tmp_path, report):
    study = saved(write_study(tmp_path / "mine", trials=2), masks=True)
    moved = tmp_path / "elsewhere" / "theirs"
    shutil.move(study, moved)
    assert "what was saved of it is shown" in report(moved)
    assert "What the masks look at" in (moved / "report.html").read_text()


def test_a_study_that_cannot_be_written_to_is_reported_elsewhere(tmp_path, report):
    study = saved(write_study(tmp_path / "mine", trials=2), masks=True)
    # A file where the folder should be: no one may write there, root neither.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    output = report(study, "--out", blocked / "report.html", fails=True)
    assert "cannot be written to" in output
    assert "--out" in output
    report(study, "--out", tmp_path / "out" / "mine.html")
    assert "What the masks look at" in (tmp_path / "out" / "mine.html").read_text()
    assert (tmp_path / "out" / "mine" / "leaderboard.csv").is_file()


def test_a_folder_that_is_neither_is_refused_in_a_line(tmp_path, report):
    write_ledger(tmp_path / "other", "features", inputs={})
    output = report(tmp_path / "other", fails=True)
    assert "must be the folder of a study or a ladder" in output
    assert len(output.strip().splitlines()) == 1


def test_an_evaluation_brings_its_own_conditions(tmp_path, report):
    study = write_study(tmp_path / "mine", trials=2)
    write_evaluation(study / "best-test", split="test", classes=CLASSES)
    # Somebody's own folder of a like name is no evaluation.
    (study / "best-of-all").mkdir()
    report(study)
    with (study / "report" / "gains_test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["conditions"].startswith("test split, 24 videos")
    assert "The best trial on the test split" in (study / "report.md").read_text()
