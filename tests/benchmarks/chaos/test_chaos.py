"""The harness of the chaos test: damage, comparison, summary. The chaos test itself is `make chaos`."""

import dataclasses
import os
import random
import signal
import sys
from unittest.mock import ANY

import pytest
from chaos.faults import DAMAGES, kinds
from chaos.processes import Command, Ended
from chaos.rounds import Episode, Event, _in_turn
from chaos.study import ChaosStudy, Result
from chaos.summary import as_json, as_markdown, failures, rows

POINTS = {"trial-0000": {"optim.lr": 0.1}, "trial-0001": {"optim.lr": 0.2}}
EPOCHS = {name: [{"epoch": 1, "val_top1": 0.5}] for name in POINTS}
WHOLE = Result(POINTS, EPOCHS, dict.fromkeys(POINTS, 1), b"tensors")


def begun_study(root):
    study = ChaosStudy.create(root / "study", cache=root / "cache", space=root / "chaos.yaml")
    (root / "cache" / "shards").mkdir(parents=True)
    trial = study.root / "trials" / "trial-0000"
    trial.mkdir(parents=True)
    for file in (trial / "point.json", study.root / "ledger.json", study.root / "fixed.json"):
        file.write_text('{"key": "0123456789"}')
    (study.root / "study.journal").write_text('{"op_code": 0}\n{"op_code": 4}\n{"op_code": 5}\n')
    return study


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_equal_seeds_give_equal_damage(damage, tmp_path):
    before, after, details = [], [], []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        study = begun_study(tmp_path / name)
        before.append((contents(study.root), study.cache / "shards"))
        details.append(damage.apply(study, random.Random(5)))
        after.append(contents(study.root))
    assert details[0] == details[1] is not None
    assert after[0] == after[1]
    assert after[0] != before[0][0] or not before[0][1].exists()


def test_every_kind_comes_once_before_any_comes_again():
    drawn = [_in_turn("abcde", index, "0 kill") for index in range(20)]
    rounds = [drawn[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(kinds) == list("abcde") for kinds in rounds)
    assert len({tuple(kinds) for kinds in rounds}) > 1
    assert drawn[7] == _in_turn("abcde", 7, "0 kill")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_new_study_has_nothing_to_damage(damage, tmp_path):
    study = ChaosStudy.create(tmp_path / "study", cache=tmp_path / "cache", space=tmp_path / "chaos.yaml")
    assert damage.apply(study, random.Random(0)) is None


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"points": POINTS | {"trial-0001": {"optim.lr": 0.3}}},
            "trial-0001: point {'optim.lr': 0.3} instead",
        ),
        ({"points": {"trial-0000": POINTS["trial-0000"]}}, "trial-0001: point None instead"),
        ({"epochs": EPOCHS | {"trial-0000": []}}, "trial-0000: other numbers, epochs []"),
        ({"ended": {"trial-0000": 1, "trial-0001": 2}}, "trial-0001: complete 2 times in the record"),
        ({"best": b"other"}, "best/: other bytes"),
    ],
)
def test_difference_to_the_undisturbed_study_is_named(changes, difference):
    assert WHOLE.differences(WHOLE) == []
    (line,) = WHOLE.differences(dataclasses.replace(WHOLE, **changes))
    assert line.startswith(difference)


def test_summary_counts_events_and_problems():
    fault, other = kinds()[:2]
    good = Event(0, 0, fault, "process 1", status=-9, next_said=["goes on"])
    bad = Event(1, 2, fault, "process 2", status=1, problems=["exit status 1"])
    episodes = [
        Episode(0, calls=2, events=[good]),
        Episode(1, calls=3, events=[bad], problems=["a file left"]),
    ]
    first, second, *_ = rows(episodes, kinds())
    assert (first["times"], first["recovered"], first["line"]) == (2, 1, "goes on")
    assert first["exit_statuses"] == {"-9": 1, "1": 1}
    assert (second["fault"], second["times"]) == (other, 0)
    assert f"| {fault} | 2 | -9: 1, 1: 1 | `goes on` | 1 of 2 recovered |" in as_markdown([first])
    assert failures(episodes) == [
        "episode 1: a file left",
        f"episode 1, call 2, {fault} (process 2): exit status 1",
    ]
    assert as_json(episodes, [first], seed=3)["calls"] == 5


def test_processes_of_a_command_are_found_by_title(tmp_path):
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '987'])"
    command = Command([sys.executable, "-S", "-c", code], log=tmp_path / "log", environment={})
    command.wait(60, until=lambda: bool(command.find("sleep 987")))
    (child,) = command.find("sleep 987")
    assert command.find("no such title") == []
    os.kill(child, signal.SIGKILL)
    assert command.finish(60) == Ended(0, "begun\n", seconds=ANY, left=())
