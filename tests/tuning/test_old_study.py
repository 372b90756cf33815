"""A study that version 0.1.0 wrote is read, resumed and reported by the present code.

`tests/data_files/old_study` was written by `evclip-ray tune old_study.yaml` at revision 3f9d72d, before the
package was split by subject. The process was killed by SIGKILL after 4 of the 6 epochs of trial-0002;
trial-0001 is complete, and trial-0000 was killed after its last epoch, before its result was written. The
trials' event files and locks were deleted, and the paths of the decoded videos replaced by `/removed/cache`.
"""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_videos import write_synthetic

from evclip_ray.artifacts import digest
from evclip_ray.cli import main
from evclip_ray.config import ConfigError
from evclip_ray.records import TrialState
from evclip_ray.results import Study
from evclip_ray.training.resources import GIB
from evclip_ray.tuning.search_space import read_space
from evclip_ray.tuning.tuner import StudyRun

DATA = Path(__file__).parents[1] / "data_files"
MACHINES = [{"CPU": 2.0, "memory": 8.0 * GIB}]


@pytest.fixture
def old_study(tmp_path):
    return shutil.copytree(DATA / "old_study", tmp_path / "study")


def epochs(root, trial):
    return [json.loads(line) for line in (root / "trials" / trial / "history.jsonl").read_text().splitlines()]


def test_old_study_is_read(old_study):
    study = Study.load(old_study)
    assert dict(zip(study.trials["trial"], study.trials["state"], strict=True)) == {
        "trial-0000": "running",
        "trial-0001": "complete",
        "trial-0002": "running",
    }
    assert study.epochs.groupby("trial").size().to_dict() == {
        "trial-0000": 6,
        "trial-0001": 6,
        "trial-0002": 4,
    }
    assert (study.best["trial"], study.best["val_top1"]) == ("trial-0002", 0.5)
    assert study.searched == ["method.prompts", "optim.lr"]
    assert study.zero_shot["top1"].tolist() == [pytest.approx(1 / 6)]


def test_old_study_without_its_videos_is_refused(old_study, tmp_path):
    run = StudyRun(read_space(DATA / "old_study.yaml"), old_study, cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"data\.synthetic: replaced by data\.world in version 0\.2"):
        run.plan(MACHINES)


def test_old_study_is_resumed(old_study, local_ray, tmp_path):
    # Version 0.1 wrote the videos when they were missing.
    settings = {"videos_per_class": 5, "size": 64, "num_frames": 12}
    write_synthetic(tmp_path / "cache" / "synthetic" / digest(settings), **settings)
    finished = old_study / "trials" / "trial-0001"
    before = {path: path.read_bytes() for path in (finished / "result.json", finished / "history.jsonl")}
    interrupted = epochs(old_study, "trial-0002")
    # Trials of two CPUs run one at a time, in one process: its imports take seconds.
    space = read_space(DATA / "old_study.yaml", study={"cpus": 2})
    run = StudyRun(space, old_study, cache=tmp_path / "cache")
    plan = run.plan(MACHINES)
    assert plan.missing == 3
    run.claim()
    run.prepare()
    reported = []
    outcome = run.run(plan, lambda event, record: reported.append((event, record.trial, record.last.epoch)))
    assert outcome.missing == 0
    assert {row.trial: row.state for row in outcome.rows} == {
        f"trial-{number:04d}": TrialState.COMPLETE for number in range(4)
    }
    assert {path: path.read_bytes() for path in before} == before
    resumed = epochs(old_study, "trial-0002")
    assert resumed[:4] == interrupted
    trained = {
        trial: sorted(number for event, name, number in reported if (event, name) == ("epoch", trial))
        for trial in ("trial-0001", "trial-0002", "trial-0003")
    }
    assert trained == {"trial-0001": [], "trial-0002": [5, 6], "trial-0003": [1, 2, 3, 4, 5, 6]}
    assert [epoch["epoch"] for epoch in resumed] == [1, 2, 3, 4, 5, 6]


def test_report_builds_from_old_study(old_study):
    result = CliRunner().invoke(main, ["report", str(old_study)])
    assert result.exit_code == 0, result.output
    page = (old_study / "report.html").read_text()
    assert "trial-0002" in page
    assert "RANDOM WEIGHTS" in page
