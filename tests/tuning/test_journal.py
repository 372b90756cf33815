"""Damage of a journal, and the points and states that it has, without Optuna."""

import json

import pytest

from evclip_ray.records import TrialState
from evclip_ray.tuning.journal import JournalNotes, read_journal

OPERATIONS = [
    {"op_code": 0, "study_name": "evclip-ray", "directions": [2]},
    {"op_code": 4, "study_id": 0},
    {"op_code": 5, "trial_id": 0, "param_name": "optim.lr", "param_value_internal": 0.5},
    {"op_code": 8, "trial_id": 0, "user_attr": {"folder": "trial-0000"}},
    {"op_code": 8, "trial_id": 0, "user_attr": {"overrides": {"optim.lr": 0.5}}},
    {"op_code": 6, "trial_id": 0, "state": 1, "values": [0.25]},
]


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text("".join(json.dumps(operation) + "\n" for operation in OPERATIONS))
    return path


def replace_line(content, number, line):
    lines = content.split(b"\n")
    lines[number - 1] = line
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("damage", "kind", "whole", "reason"),
    [
        (lambda content: content, "none", 6, ""),
        (lambda content: content[:-20], "tail", 5, "line 6 is damaged"),
        (lambda content: content[:-1], "tail", 6, "its last line has no end"),
        (lambda content: content + bytes(4096), "tail", 6, "line 7 is damaged"),
        (lambda content: content.replace(b"\n", b"\n \n", 1), "tail", 6, "line 2 is blank"),
        (lambda content: replace_line(content, 3, b'{"op_'), "middle", 2, "line 3 is damaged"),
        (lambda content: replace_line(content, 3, bytes(20)), "middle", 2, "line 3 is damaged"),
        (lambda content: replace_line(content, 3, b"\xff\xfe"), "middle", 2, "line 3 is damaged"),
        (lambda content: replace_line(content, 3, b"17"), "middle", 2, "line 3 is damaged"),
        (lambda content: b"", "none", 0, ""),
    ],
    ids=[
        "whole",
        "cut",
        "no_end",
        "zeros",
        "blank",
        "cut_middle",
        "zeros_middle",
        "binary",
        "number",
        "empty",
    ],
)
def test_damage_is_located(journal, damage, kind, whole, reason):
    journal.write_bytes(damage(journal.read_bytes()))
    content = read_journal(journal)
    assert (content.damage, content.reason) == (kind, reason)
    assert content.operations == OPERATIONS[:whole]


def test_missing_journal_is_empty(tmp_path):
    assert read_journal(tmp_path / "study.journal").operations == []
    assert JournalNotes(tmp_path / "study.journal").folders() == []


def test_notes_follow_a_growing_journal(journal):
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:10])
    notes = JournalNotes(journal)
    assert notes.state("trial-0000") is None
    assert notes.overrides("trial-0000") == {"optim.lr": 0.5}
    with journal.open("a") as stream:
        stream.write(lines[-1][10:])
    assert notes.state("trial-0000") is TrialState.COMPLETE
    assert notes.params("trial-0000") == ["optim.lr"]
    # The same point is run again.
    with journal.open("a") as stream:
        stream.write(json.dumps({"op_code": 4, "state": 4, "user_attrs": {"folder": "trial-0000"}}) + "\n")
    assert notes.state("trial-0000") is None
    assert notes.overrides("trial-0000") == {"optim.lr": 0.5}


def test_notes_of_a_replaced_journal_begin_again(journal, tmp_path):
    notes = JournalNotes(journal)
    assert notes.folders() == ["trial-0000"]
    (tmp_path / "new").write_text("")
    (tmp_path / "new").replace(journal)
    assert notes.folders() == []


def test_interrupted_trial_has_not_ended(journal):
    with journal.open("a") as stream:
        stream.write(json.dumps({"op_code": 8, "trial_id": 0, "user_attr": {"interrupted": True}}) + "\n")
    assert JournalNotes(journal).state("trial-0000") is None


def test_notes_end_before_damage(journal):
    journal.write_bytes(replace_line(journal.read_bytes(), 5, b"{"))
    notes = JournalNotes(journal)
    assert notes.folders() == ["trial-0000"]
    assert notes.state("trial-0000") is None
