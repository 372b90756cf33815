import math
import threading

import pytest
from made_studies import SEARCH, write_study

from evclip_ray.artifacts import ArtifactError, write_ledger
from evclip_ray.results import Ladder, Study, open_results


def test_study_has_tables_of_trials_and_epochs(tmp_path):
    study = Study.load(write_study(tmp_path / "study", trials=5, epochs=4, states=["stopped", "failed"]))
    assert list(study.trials["rank"]) == [1, 2, 3, 4, 5]
    assert set(SEARCH) <= set(study.trials.columns)
    assert len(study.epochs) == 2 + 3 * 4
    assert study.best["trial"] == study.trials["trial"].iloc[0]
    assert study.best["val_top1"] == study.epochs["val_top1"].max()


def test_score_without_a_finished_epoch_is_missing(tmp_path):
    study = Study.load(write_study(tmp_path, trials=3, states=["failed"]))
    failed = study.trials[study.trials["state"] == "failed"].iloc[0]
    assert math.isnan(failed["val_top1"])
    assert failed["error"] == "ConfigError: no such setting"


@pytest.mark.parametrize("trials", [0, 2])
def test_study_without_scores_has_no_best_trial(tmp_path, trials):
    study = Study.load(write_study(tmp_path, trials=trials, states=["failed", "failed"]))
    assert study.best is None
    assert len(study.trials) == trials


def test_loading_again_reads_new_trials(tmp_path):
    write_study(tmp_path, trials=2)
    before = Study.load(tmp_path)
    assert len(before.trials) == 2
    write_study(tmp_path, trials=3)
    assert len(Study.load(tmp_path).trials) == 3


def test_ladder_stacks_its_steps_in_order(tmp_path):
    write_ledger(tmp_path, "ladder", inputs={})
    (tmp_path / "ladder.csv").write_text("rung,val_top1\nsmall,0.5\nlarge,0.6\n")
    for seed, name in enumerate(("large", "small")):
        write_study(tmp_path / "rungs" / name, trials=2 + seed, seed=seed)
    ladder = open_results(tmp_path)
    assert isinstance(ladder, Ladder)
    assert list(ladder.steps) == ["small", "large"]
    assert list(ladder.trials["rung"].unique()) == ["small", "large"]
    assert len(ladder.trials) == 5
    assert ladder.best["val_top1"] == ladder.trials["val_top1"].max()


def test_folder_of_other_stage_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"no ledger\.json"):
        open_results(tmp_path)
    write_ledger(tmp_path, "shards", inputs={})
    with pytest.raises(ArtifactError, match="its ledger has the stage 'shards'"):
        open_results(tmp_path)
    with pytest.raises(ArtifactError, match="must be a 'study' folder"):
        Study.load(tmp_path)


def test_history_cut_in_a_line_has_earlier_epochs(tmp_path):
    study = write_study(tmp_path, trials=2, epochs=4, states=["running"])
    history = study / "trials" / "trial-0000" / "history.jsonl"
    whole = Study.load(study).epochs
    text = history.read_text()
    history.write_text(text[: len(text) - 30])
    part = Study.load(study)
    assert len(part.epochs) == len(whole) - 1
    assert part.best is not None
    (study / "trials" / "trial-0002").mkdir()
    assert len(Study.load(study).trials) == 2, "a trial without its point has not started"


def test_damaged_history_leaves_the_other_trials(tmp_path, caplog):
    study = write_study(tmp_path, trials=2, epochs=4)
    history = study / "trials" / "trial-0000" / "history.jsonl"
    text = history.read_text()
    history.write_text(text[:20] + "\n" + text[20:])
    damaged = Study.load(study)
    assert damaged.epochs["trial"].unique().tolist() == ["trial-0001"]
    assert sorted(damaged.trials["state"]) == ["complete", "running"]
    assert "history.jsonl: line 1 is not JSON; the file is damaged" in caplog.text
    assert "is lost, so that the trial counts as not finished" in caplog.text


def test_tables_can_be_read_while_the_study_writes(tmp_path):
    write_study(tmp_path, trials=3, states=["running"] * 3)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for trials in (3, 4, 5):
                write_study(tmp_path, trials=trials, epochs=6, states=["running"] * 2)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            study = Study.load(tmp_path)
            assert 3 <= len(study.trials) <= 5
            assert study.best is not None
            assert len(study.epochs) >= 3
    finally:
        stop.set()
        writer.join()
