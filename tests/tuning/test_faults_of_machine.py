"""Studies whose Ray dies, which are terminated, or whose disk is full, with real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from evclip_ray.cluster.ray_watch import _processes
from evclip_ray.results import Study

# A test runs up to three studies, each with its own Ray.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def tune(tiny_manifest, tiny_cache, debug_settings, without_ray, tmp_path):
    """Return a function that starts the command on a study of three trials."""
    space = {
        "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": 6},
        "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        "study": {"trials": 3, "sampler": "random", "seed": 3, "scheduler": "none", "memory_gb": 0.5},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))

    def start(out, *options, **environment):
        command = [sys.executable, "-m", "evclip_ray", "tune", str(tmp_path / "space.yaml")]
        return subprocess.Popen(
            [*command, "--out", str(out), "--cache", str(tiny_cache), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    return start


def wait_for_epoch(process, root):
    while not list(root.glob("trials/*/history.jsonl")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


def kill_child(process, name):
    (pid,) = [pid for pid, child in _processes() if child.parent == process.pid and child.name == name]
    os.kill(pid, signal.SIGKILL)


def points(root):
    return {
        path.parent.name: json.loads(path.read_text())["overrides"]
        for path in sorted(root.glob("trials/*/point.json"))
    }


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_dead_ray_is_started_again_once(tune, tmp_path, name):
    root = tmp_path / "study"
    process = tune(root)
    wait_for_epoch(process, root)
    kill_child(process, name)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count(f"Ray's process {name} died. Everything finished is kept. Starting Ray again") == 1
    # Lines of Ray's own: its C++ code, and the two that were seen in healthy studies.
    for line in ("Traceback", "rpc_client.h", "Could not re-use actor", "Actor with class name"):
        assert line not in output
    assert Study.load(root).trials["state"].tolist() == ["complete"] * 3
    assert not [pid for pid, child in _processes() if child.parent == process.pid]
    second = tune(root, "--trials", "5", EVCLIP_RAY_RESTARTED="1")
    while "trial-0003" not in points(root):
        assert second.poll() is None, second.stdout.read()
        time.sleep(0.05)
    kill_child(second, name)
    output, _ = second.communicate()
    assert second.returncode == 1, output
    assert f"Ray's process {name} died. Everything finished is kept." in output
    assert output.rstrip().splitlines()[-1].startswith("  evclip-ray tune ")
    assert "Traceback" not in output


def test_sigterm_ends_as_ctrl_c_does(tune, tmp_path):
    root = tmp_path / "study"
    process = tune(root)
    wait_for_epoch(process, root)
    process.terminate()
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert "Interrupted. Finished work is on disk. Resume with:" in output
    assert "SIGTERM received" not in output
    assert "Traceback" not in output


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk_pauses_the_study(tune, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "300k"):
        process = tune(disk / "study")
        output, _ = process.communicate()
        assert process.returncode == 1, output
        (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
        assert "the disk is full (" in line
        assert "are free" in line
        assert line.endswith("The same command continues it.")
        for word in ("Traceback", " failed "):
            assert word not in output
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        again = tune(disk / "study")
        output, _ = again.communicate()
        assert again.returncode == 0, output
        assert Study.load(disk / "study").trials["state"].tolist() == ["complete"] * 3
        tune(disk / "undisturbed").communicate()
        assert points(disk / "study") == points(disk / "undisturbed")


def test_failed_study_exits_with_1_every_time(tune, tmp_path):
    # Seven heads do not divide the channels of the mask generator.
    options = ("--set", "method.mask.heads=7", "--set", "method.mask.width=64", "--trials", "1")
    for more, is_run in (((), True), ((), False), (("--retry-failed",), True)):
        process = tune(tmp_path / "study", *options, *more)
        output, _ = process.communicate()
        assert process.returncode == 1, output
        assert "every trial failed. The first error: " in output
        assert ("1 of 1 to run" in output, "the only trial has ended" in output) == (is_run, not is_run)
