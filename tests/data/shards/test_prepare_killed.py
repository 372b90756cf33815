"""Killed drivers and decoders: the repeated command ends with the same bytes.

In a separate file because all its tests are slow and start their own Ray.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evclip_ray.artifacts import file_digest
from evclip_ray.data.shards.prepare import open_shards

pytestmark = pytest.mark.slow

PREPARE = """
import sys
from pathlib import Path
from evclip_ray.cluster import connect
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.video.view import ViewConfig
with connect(num_cpus=2):
    prepare_shards(
        read_manifest(Path(sys.argv[1])), view=ViewConfig(num_frames=8, height=128, width=128),
        folder=Path(sys.argv[2]), num_views=3, rows_per_shard=1,
        progress=lambda done, total: print(done, flush=True),
    )
"""


def prepare(manifest, folder, **options):
    command = [sys.executable, "-c", PREPARE, str(manifest), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def digests(folder):
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.arrow"))}


def wait_for_shard(process):
    """Read the printed numbers until a shard is finished. The first number counts those of earlier calls."""
    assert any(int(line) > 0 for line in process.stdout), process.stderr.read()


def decoders_of(driver):
    """Return the descendants of the process `driver` that are decoding."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text().rpartition(")")
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid], names[pid] = int(after.split()[1]), before.partition("(")[2]
    family = {driver}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return [pid for pid in family if names.get(pid, "").startswith("ray::FlatMap")]


@pytest.fixture(scope="module")
def undisturbed(tiny_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = prepare(tiny_manifest, folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return digests(folder)


def test_killed_driver_resumes_to_the_same_bytes(tiny_manifest, undisturbed, tmp_path):
    with prepare(tiny_manifest, tmp_path) as process:
        wait_for_shard(process)
        process.send_signal(signal.SIGKILL)
    finished = digests(tmp_path)
    assert 0 < len(finished) < 30
    with prepare(tiny_manifest, tmp_path) as process:
        counts = [int(line) for line in process.stdout]
    # The decoders of the killed driver may have finished another shard meanwhile.
    assert counts[0] >= len(finished), "finished shards are kept"
    assert digests(tmp_path) == undisturbed
    assert len(open_shards(tmp_path)) == 30


@pytest.mark.parametrize("seed", [0, 1])
def test_repeatedly_killed_driver_finishes_in_the_end(tiny_manifest, undisturbed, tmp_path, seed):
    moments = random.Random(seed)
    for _ in range(3):
        with prepare(tiny_manifest, tmp_path) as process:
            for _ in range(moments.randrange(3)):
                process.stdout.readline()
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        finished = digests(tmp_path)
        assert finished.items() <= undisturbed.items()
    with prepare(tiny_manifest, tmp_path) as process:
        process.stdout.read()
    assert process.returncode == 0
    assert digests(tmp_path) == undisturbed
    assert not list(tmp_path.glob(".shard*")), "temporary files of killed processes are removed"


def test_killed_decoders_are_replaced_and_cost_no_video(tiny_manifest, undisturbed, tmp_path):
    killed = 0
    with prepare(tiny_manifest, tmp_path) as process:
        wait_for_shard(process)
        for _ in range(200):
            for pid in decoders_of(process.pid)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            if killed or process.poll() is not None:
                break
            time.sleep(0.01)
        process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert killed
    assert digests(tmp_path) == undisturbed
    assert not open_shards(tmp_path).skipped
