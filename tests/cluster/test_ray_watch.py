"""The watch over the processes of a local Ray, with other processes in their place."""

import shutil
import subprocess
import threading
import time

import pytest

from evclip_ray import termination
from evclip_ray.cluster import ray_watch
from evclip_ray.cluster.ray_watch import RayWatch


@pytest.fixture
def died(monkeypatch):
    """Return the names that were reported, and an event that is set by each report."""
    reported, event = [], threading.Event()

    def note(name):
        reported.append(name)
        event.set()

    monkeypatch.setattr(termination._State, "on_ray_death", staticmethod(note))
    monkeypatch.setattr(termination._State, "received", None)
    monkeypatch.setattr(ray_watch, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray_watch, "_GRACE_SECONDS", 0.02)
    return reported, event


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Start two programs in the place of Ray's and return them by name."""
    # Not Ray's names: the test process may have a Ray of its own.
    names = ("watched_gcs", "watched_raylet")
    monkeypatch.setattr(ray_watch, "_NAMES", names)
    monkeypatch.setattr(ray_watch, "_is_ray", lambda pid: pid in {p.pid for p in started.values()})
    started = {}
    for name in names:
        shutil.copy(shutil.which("sleep"), tmp_path / name)
        started[name] = subprocess.Popen([tmp_path / name, "600"])
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["watched_gcs", "watched_raylet"])
def test_dead_process_is_reported_and_the_other_ended(died, processes, name):
    reported, event = died
    with RayWatch():
        processes[name].kill()
        assert event.wait(20)
    assert reported == [name]
    assert {process.wait(20) for process in processes.values()} <= {0, -9}


def test_end_of_the_watch_and_sigterm_are_expected(died, processes, monkeypatch):
    reported, _ = died
    with RayWatch() as watch:
        assert watch._dead() is None
        watch.end()
        processes["watched_raylet"].kill()
        processes["watched_raylet"].wait()
    with RayWatch() as watch:
        termination.note_signal(15)
        processes["watched_gcs"].kill()
        watch._thread.join(20)
    assert reported == []


def test_death_while_ray_starts_is_reported(died, processes):
    reported, _ = died
    with RayWatch() as watch:
        assert watch._dead() is None
        watch._ended.set()
        processes["watched_raylet"].kill()
        processes["watched_raylet"].wait()
        watch.report()
    assert reported == ["watched_raylet"]


def test_children_of_a_killed_raylet_are_ended(died, processes, tmp_path, monkeypatch):
    # A shell in the place of the raylet, with a child that outlives it.
    shell = subprocess.Popen(["bash", "-c", "sleep 600 & echo $! ; wait"], stdout=subprocess.PIPE, text=True)
    child = int(shell.stdout.readline())
    monkeypatch.setattr(ray_watch, "_NAMES", ("watched_gcs", "bash"))
    watch = RayWatch()
    watch._watched = {"watched_gcs": processes["watched_gcs"].pid, "bash": shell.pid}
    watch._note_children()
    shell.kill()
    shell.wait()
    assert ray_watch._is_alive(child)
    watch.end_leftovers(0)
    for _ in range(400):
        if not ray_watch._is_alive(child):
            break
        time.sleep(0.05)
    assert not ray_watch._is_alive(child)


def test_process_with_a_reused_id_is_not_ended(died, processes):
    watch = RayWatch()
    gcs = processes["watched_gcs"]
    watch._of_raylet = {gcs.pid: ray_watch._read(gcs.pid).start - 1}
    watch.end_leftovers(0)
    assert ray_watch._is_alive(gcs.pid)
