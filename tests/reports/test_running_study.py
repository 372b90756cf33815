"""A study that is read while it runs: by `results`, by the figures, and by TensorBoard."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest
import yaml

from evclip_ray.artifacts import LEDGER
from evclip_ray.reports.figures import study_figures
from evclip_ray.results import Study

STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
pytestmark = pytest.mark.slow


@pytest.fixture
def running(tiny_manifest, debug_settings, tiny_cache, tmp_path):
    """Start a study of three trials. Yields its folder and its process."""
    space = tmp_path / "tiny.yaml"
    fixed = {**debug_settings, "data.manifest": str(tiny_manifest), "optim.epochs": 25}
    search = {"optim.lr": {"loguniform": [1e-3, 1e-2]}, "method.prompts": {"choice": ["both", "context"]}}
    study = {"memory_gb": 0.5, "scheduler": "none", "trials": 3}
    space.write_text(yaml.safe_dump({"fixed": fixed, "search": search, "study": study}))
    command = [str(Path(sys.executable).with_name("evclip-ray")), "tune", str(space)]
    command += ["--out", str(tmp_path / "study"), "--cache", str(tiny_cache)]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ) as process,
    ):
        yield tmp_path / "study", process
        process.terminate()


def sessions(tensorboard):
    """Return status and hyperparameters of the trials from the HParams plugin.

    A running trial has the status STATUS_UNKNOWN there.
    """
    columns = [{"metric": {"tag": "val/top1"}}]
    request = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": STATUSES, "colParams": columns}
    with contextlib.suppress(urllib.error.HTTPError):
        groups = tensorboard("session_groups", **request).get("sessionGroups", [])
        return [(group["sessions"][0]["status"], group["hparams"]) for group in groups]
    return []  # no event file has been written yet


def test_results_and_tensorboard_follow_a_running_study(running, tensorboard):
    root, process = running
    num_epochs, figures, live = [], set(), []
    while process.poll() is None:
        if (root / LEDGER).is_file():
            study = Study.load(root)
            num_epochs.append(len(study.epochs))
            figures |= set(study_figures(study))
            live += [status for status, _ in sessions(tensorboard)]
        time.sleep(1)
    assert process.returncode == 0, (root.parent / "log").read_text()
    assert num_epochs == sorted(num_epochs)
    assert any(0 < count < 75 for count in num_epochs), "no epoch was read before the study ended"
    assert {"history", "curves_top1", "curves_loss"} <= figures
    assert "STATUS_UNKNOWN" in live
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        trials = sessions(tensorboard)
        if len(trials) == 3 and all(status == "STATUS_SUCCESS" for status, _ in trials):
            break
        time.sleep(1)
    study = Study.load(root)
    assert len(study.epochs) == 75
    logged = {round(hparams["optim.lr"], 9): hparams["method.prompts"] for _, hparams in trials}
    assert logged == {round(row["optim.lr"], 9): row["method.prompts"] for _, row in study.trials.iterrows()}
    searched = {info["name"] for info in tensorboard("experiment")["hparamInfos"]}
    assert {"optim.lr", "method.prompts"} <= searched
