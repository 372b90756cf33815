import contextlib

import pytest
import torch

from evclip_ray.locking import holding
from evclip_ray.training import step_graphs
from evclip_ray.tuning import gpu_turns
from evclip_ray.tuning.gpu_turns import train_in_turns


@pytest.fixture
def card(monkeypatch, tmp_path):
    """Return the successive amounts of free memory. A trial needs 120 bytes for its second attempt."""
    free = []
    monkeypatch.setattr(gpu_turns, "reserved_bytes", lambda: 100)
    monkeypatch.setattr(gpu_turns, "total_bytes", lambda: 1000)
    monkeypatch.setattr(gpu_turns, "free_bytes", lambda: free.pop(0))
    monkeypatch.setattr(gpu_turns, "_lock_file", lambda: tmp_path / "gpu.lock")
    monkeypatch.setattr(gpu_turns, "_POLL_SECONDS", 0)
    monkeypatch.setattr(step_graphs, "_failures", [])
    monkeypatch.setattr(step_graphs, "_captures", [])
    return free


def failing(times):
    attempts = []

    def train():
        attempts.append(len(attempts))
        if len(attempts) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 bytes")

    return train, attempts


def test_trial_waits_for_memory_of_a_shared_gpu(card):
    card += [50, 119, 120, 500]
    train, attempts = failing(1)
    train_in_turns(train, is_shared=True)
    assert attempts == [0, 1]
    assert card == [500]
    assert step_graphs._failures, "a graph keeps the memory of a step"


def test_trial_waits_for_the_whole_gpu_if_a_larger_share_is_too_small(card):
    card += [120, 899, 900, 500]
    train, attempts = failing(2)
    train_in_turns(train, is_shared=True)
    assert (attempts, card) == ([0, 1, 2], [500])


@pytest.mark.parametrize("is_held", [False, True])
def test_waiting_trial_can_be_stopped(card, tmp_path, is_held):
    def stop():
        raise SystemExit

    card += [50] * 10
    train, attempts = failing(1)
    with contextlib.ExitStack() as held:
        if is_held:
            held.enter_context(holding(tmp_path / "gpu.lock", "another trial"))
        with pytest.raises(SystemExit):
            train_in_turns(train, is_shared=True, on_wait=stop)
    assert attempts == [0]
    # The next trial gets the turn.
    with holding(tmp_path / "gpu.lock", "the stopped trial", wait=False):
        pass


def test_trial_waits_for_no_more_memory_than_a_gpu_has(card, monkeypatch):
    monkeypatch.setattr(gpu_turns, "total_bytes", lambda: 110)
    card += [98, 99]
    train, attempts = failing(1)
    train_in_turns(train, is_shared=True)
    assert (attempts, card) == ([0, 1], [])


@pytest.mark.parametrize(("times", "is_shared", "expected"), [(1, False, 1), (3, True, 3)])
def test_trial_that_does_not_fit_alone_fails(card, times, is_shared, expected):
    card += [500, 900]
    train, attempts = failing(times)
    with pytest.raises(torch.OutOfMemoryError):
        train_in_turns(train, is_shared=is_shared)
    assert len(attempts) == expected


def test_trial_alone_goes_on_without_graphs(card, monkeypatch):
    monkeypatch.setattr(step_graphs, "_captures", [4])
    train, attempts = failing(1)
    train_in_turns(train, is_shared=False)
    assert (attempts, step_graphs.were_used()) == ([0, 1], False)


def test_wait_for_memory_ends(card, monkeypatch):
    monkeypatch.setattr(gpu_turns, "_LONGEST_WAIT_SECONDS", 0)
    card += [50, 50]
    train, attempts = failing(1)
    train_in_turns(train, is_shared=True)
    assert attempts == [0, 1]
