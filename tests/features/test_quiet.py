"""What Ray prints by itself when features are made."""

import subprocess
import sys

import pytest

POOL = """
import os
from evclip_ray.cluster import connect
from evclip_ray.features.quiet import hush_restart_warning
class Same:
    def __call__(self, row):
        return row
with connect(num_cpus=1):
    import ray.data
    hush_restart_warning()
    rows = ray.data.from_items([{"a": 1}]).map(Same, compute=ray.data.ActorPoolStrategy(size=1))
    assert rows.take_all() == [{"a": 1}]
    os.write(2, b"a real error")
"""


@pytest.mark.slow
def test_a_pool_of_actors_is_made_without_a_warning_and_errors_are_heard():
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "constructor arguments" not in done.stderr
    assert "a real error" in done.stderr
