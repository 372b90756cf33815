"""Lock of a run's folder (loop.py) that another process holds."""

import subprocess
import sys

import pytest

from evclip_ray import locking
from evclip_ray.training.loop import Run

HOLD = """
import sys, time
from pathlib import Path
from evclip_ray.locking import building
folder = Path(sys.argv[1])
with building([folder]):
    print("held", flush=True)
    time.sleep(1)
    (folder / "written").write_text("before the other one began")
"""


def test_run_waits_for_the_process_writing_its_folder(
    make_experiment, tiny_videos, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(locking, "_SILENT_SECONDS", 0.1)
    folder = tmp_path / "run"
    folder.mkdir()
    run = Run.start(make_experiment(optim__epochs=1), tiny_videos, folder=folder)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        was_written, resume = [], run.resume

        def look():
            was_written.append((folder / "written").is_file())
            resume()

        monkeypatch.setattr(run, "resume", look)
        run.fit(lambda metrics: None)
        assert was_written == [True], "the run must read its folder after the other process has ended"
        assert f"{folder} is in use by process {other.pid} on " in caplog.text


def test_abandoned_run_releases_its_folder(make_experiment, tiny_videos, tmp_path, caplog):
    experiment = make_experiment(optim__epochs=1)

    def give_up(metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run.start(experiment, tiny_videos, folder=tmp_path / "run").fit(give_up)
    Run.start(experiment, tiny_videos, folder=tmp_path / "run").fit(lambda metrics: None)
    assert "another process" not in caplog.text
