"""Two processes that decode the same videos at the same time (datamodule.py); the first may be killed."""

import json
import signal
import subprocess
import sys

import pytest

from evclip_ray.artifacts import file_digest

pytestmark = pytest.mark.slow

PREPARE = """
import json, sys
from pathlib import Path
from evclip_ray.cluster import connect
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.datamodule import prepare
from evclip_ray.training.video_plan import plan_videos
experiment = ExperimentConfig.load(json.loads(sys.argv[1]))
cache = Path(sys.argv[2])
with connect(num_cpus=1):
    print("ready", flush=True)
    prepare(plan_videos(experiment, cache=cache), cache=cache, progress=lambda *at: print(*at, flush=True))
"""


@pytest.fixture
def start(make_experiment, tmp_path):
    """Return a function that starts a process which decodes into the shared cache."""
    settings = json.dumps(make_experiment().model_dump(mode="json"))

    def started():
        command = [sys.executable, "-c", PREPARE, settings, str(tmp_path / "cache")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return started


def shards_of(cache):
    return {path.name: file_digest(path) for path in cache.rglob("shard-*.arrow")}


def test_one_process_decodes_and_the_other_reuses(start, tmp_path):
    both = [start(), start()]
    outputs = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(lines[0] == "ready" for lines in outputs)
    done = sorted(line for lines in outputs for line in lines[1:])
    assert len(done) == len(set(done)), "nothing is decoded by both"
    assert {line.rsplit(" ", 2)[0] for line in done} == {"decoding train", "decoding val"}


def test_second_process_continues_after_a_kill(start, tmp_path):
    with start() as first:
        assert first.stdout.readline() == "ready\n"
        second = start()
        while not list((tmp_path / "cache").rglob(".*.lock")):
            assert first.poll() is None
        first.send_signal(signal.SIGKILL)
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert shards_of(tmp_path / "cache")
