import asyncio
import threading

import pytest

from evclip_ray.deploy.server.batching import Batcher
from evclip_ray.deploy.server.metrics import Metrics


class Recorder:
    """Function of a batcher that records its batches. The first one waits until `go` is set."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def __call__(self, key, items):
        self.batches.append((key, list(items)))
        if len(self.batches) == 1:
            assert self.go.wait(5)
        if "bad" in items:
            raise ValueError("bad batch")
        return [(key, item) for item in items]


async def submit_while_busy(batcher, recorder, items):
    """Submit an item, and the others while it is computed."""
    first = asyncio.create_task(batcher.submit("a", 0))
    while not recorder.batches:
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(batcher.submit(*item)) for item in items]
    await asyncio.sleep(0)
    return first, tasks


def test_items_that_wait_form_batches_by_key():
    async def work():
        recorder = Recorder()
        batcher = Batcher(recorder, size=2, metrics=Metrics())
        items = [("a", 1), ("b", 2), ("a", 3), ("a", 4)]
        first, tasks = await submit_while_busy(batcher, recorder, items)
        recorder.go.set()
        results = await asyncio.gather(first, *tasks)
        batcher.close()
        return recorder.batches, results

    batches, results = asyncio.run(work())
    assert batches == [("a", [0]), ("a", [1, 3]), ("b", [2]), ("a", [4])]
    assert results == [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("a", 4)]


def test_error_of_a_batch_reaches_its_items_only():
    async def work():
        recorder = Recorder()
        batcher = Batcher(recorder, size=8, metrics=Metrics())
        first, tasks = await submit_while_busy(batcher, recorder, [("a", "bad"), ("b", 2), ("a", 3)])
        recorder.go.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    first, bad, other, with_bad = asyncio.run(work())
    assert (first, other) == (("a", 0), ("b", 2))
    assert str(bad) == str(with_bad) == "bad batch"


def test_cancelled_item_is_not_computed():
    async def work():
        recorder = Recorder()
        batcher = Batcher(recorder, size=8, metrics=Metrics())
        first, (gone, stays) = await submit_while_busy(batcher, recorder, [("a", 1), ("a", 2)])
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        recorder.go.set()
        await asyncio.gather(first, stays)
        return recorder.batches

    assert asyncio.run(work()) == [("a", [0]), ("a", [2])]
