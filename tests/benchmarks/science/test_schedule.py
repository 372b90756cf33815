"""Order, results file and plan of the experiments."""

import gzip
import json

import pytest
from science.__main__ import main
from science.experiments import trained, zero_shot_on
from science.schedule import PUBLISHED, RESULTS, Plan, append_record, next_task, publish_records, read_records
from science.settings import HELD_OUT, world_set

CLUTTER, DARK = world_set("clutter"), world_set("dark")


def test_next_task_prepares_the_videos_first():
    waiting = [trained("both", CLUTTER, 0), trained("both", DARK, 0)]

    assert next_task(waiting, {CLUTTER: "missing", DARK: "missing"}) == CLUTTER
    assert next_task(waiting, {CLUTTER: "running", DARK: "missing"}) == DARK
    assert next_task(waiting, {CLUTTER: "ready", DARK: "missing"}) == waiting[0]
    assert next_task(waiting, {CLUTTER: "running", DARK: "ready"}) == waiting[1]
    assert next_task(waiting, {CLUTTER: "running", DARK: "running"}) is None


def test_plan_skips_finished_experiments():
    first, second = zero_shot_on(HELD_OUT["plain"]), trained("both", CLUTTER, 0)

    plan = Plan.of([first, second], {first.key: {}})

    assert plan.missing == [second]
    assert plan.worlds == [CLUTTER]


@pytest.mark.parametrize("cut", ['{"key": "b", "sec', '{"key": "b"'])
def test_results_survive_a_cut_line(tmp_path, cut):
    append_record(tmp_path, {"key": "a"})
    with (tmp_path / RESULTS).open("a") as stream:
        stream.write(cut)

    append_record(tmp_path, {"key": "c"})

    assert set(read_records(tmp_path)) == {"a", "c"}


def test_results_are_one_line_each(tmp_path):
    append_record(tmp_path / "new", {"key": "a", "text": "two\nlines"})

    lines = (tmp_path / "new" / RESULTS).read_text().splitlines()

    assert [json.loads(line)["key"] for line in lines] == ["a"]


def test_published_records_are_a_results_file(tmp_path):
    records = {"b": {"key": "b", "seconds": 2.0}, "a": {"key": "a", "seconds": 1.0}}

    first = publish_records(tmp_path, records.values()).read_bytes()
    second = publish_records(tmp_path, reversed(records.values())).read_bytes()

    assert first == second
    (tmp_path / RESULTS).write_bytes(gzip.decompress(first))
    assert read_records(tmp_path) == records


def test_page_leaves_out_records_of_other_settings(tmp_path, capsys):
    known = zero_shot_on(HELD_OUT["plain"]).key
    test = {
        "videos": "v",
        "count": 8,
        "groups": list(range(8)),
        "right": {"zero_shot": "fe", "adapted": "fe"},
    }
    for key in (known, "key of another network"):
        append_record(tmp_path, {"key": key, "seconds": 1.0, "test": test, "provenance": {"git": "r"}})

    assert (
        main(["--table-only", "--claims", "a", "--out", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    )

    assert "(a) holds" in capsys.readouterr().out
    assert "1 experiments" in (tmp_path / "docs" / "table.md").read_text()
    lines = gzip.decompress((tmp_path / "docs" / PUBLISHED).read_bytes()).splitlines()
    assert [json.loads(line)["key"] for line in lines] == [known]
