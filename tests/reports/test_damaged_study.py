"""Commands that read a damaged study: they work and name what was passed over, or end in one line."""

import json

import pytest
from click.testing import CliRunner
from made_studies import without_stages, write_journal, write_study

from evclip_ray.artifacts import ArtifactError, write_json, write_text
from evclip_ray.cli import main
from evclip_ray.training.checksums import write_checksums
from evclip_ray.tuning import trial_folder
from evclip_ray.tuning.study_folder import name_recovery

AGAIN = "The `evclip-ray tune` command of this study writes it again."


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


def shorten(path, lines):
    """Remove lines from the end of a file."""
    write_text(path, "".join(path.read_text().splitlines(keepends=True)[:-lines]))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_folder, "_warned", set())
    folder = write_study(tmp_path / "mine", trials=4)
    write_journal(folder)
    for trial in (folder / "trials").glob("trial-*"):
        (trial / "last").mkdir()
        (trial / "last" / "history.jsonl").write_text((trial / "history.jsonl").read_text())
        write_checksums(trial / "last", [])
    return folder


def test_report_of_damaged_files_names_them(study, caplog):
    trials = study / "trials"
    shorten(trials / "trial-0000" / "history.jsonl", 2)
    (trials / "trial-0001" / "point.json").write_text("")
    (trials / "trial-0002" / "result.json").write_text("{")
    torn = trials / "trial-0003" / "history.jsonl"
    write_text(torn, torn.read_text()[:-30])
    with (study / "study.journal").open("a") as journal:
        journal.write('{"op_code": 4, "wor')
    done = run("report", study, "--videos", "0")
    assert done.exit_code == 0, done.output
    named = "\n".join(caplog.messages)
    assert "trial-0000/history.jsonl: has 2 of 4 epochs; the copy in `last/` is read" in named
    assert "trial-0001/point.json: is damaged or missing, and the journal does not have the point" in named
    assert "trial-0002/result.json: is damaged; the state of the trial is read from the journal" in named
    assert "trial-0003/history.jsonl: has 3 of 4 epochs" in named
    assert len((study / "report" / "history.csv").read_text().splitlines()) == 4


def test_history_that_ends_within_a_line_is_named(study, caplog):
    path = study / "trials" / "trial-0000" / "history.jsonl"
    (path.parent / "last" / path.name).unlink()
    write_text(path, path.read_text()[:-30])
    assert run("report", study, "--videos", "0").exit_code == 0
    assert f"{path}: ends within a line, so that an epoch after its 3 may be lost" in caplog.messages


@pytest.mark.parametrize("content", [None, "", '{"stage": "stu'])
def test_report_without_a_ledger_is_one_line(study, content):
    (study / "ledger.json").unlink()
    if content is not None:
        (study / "ledger.json").write_text(content)
    done = run("report", study)
    assert (done.exit_code, len(without_stages(done.output))) == (1, 1)
    assert "ledger.json" in done.output
    assert done.output.endswith(f"{AGAIN}\n")


@pytest.mark.parametrize("damage", ["emptied", "removed"])
def test_evaluate_of_a_damaged_best_is_one_line(study, damage):
    config = study / "best" / "config.json"
    config.unlink()
    if damage == "emptied":
        config.write_text("")
    done = run("evaluate", study / "best", "--split", "test")
    assert (done.exit_code, len(without_stages(done.output))) == (1, 1)
    assert done.output.endswith(f"{AGAIN}\n")


def test_recovery_is_named_for_a_damaged_checkpoint_alone(study, tmp_path):
    best = study / "best"
    for name in ("adapter.safetensors", "rows.parquet"):
        (best / name).write_bytes(b"12345678")
    write_checksums(best, [])
    with pytest.raises(ArtifactError, match=r"^not of these classes$"), name_recovery(best):
        raise ArtifactError("not of these classes")
    (best / "rows.parquet").write_bytes(b"1234")
    with (
        pytest.raises(ArtifactError, match=r"^is short\. The `evclip-ray tune` command"),
        name_recovery(best),
    ):
        raise ArtifactError("is short")
    # A checkpoint on its own has no study that could write it again.
    write_json(tmp_path / "best" / "config.json", json.loads((best / "config.json").read_text()))
    with pytest.raises(ArtifactError, match=r"^is short$"), name_recovery(tmp_path / "best"):
        raise ArtifactError("is short")
