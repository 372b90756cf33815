"""Batches across requests: views that wait at the same time share one forward pass."""

import asyncio
import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from evclip_ray.deploy.server.metrics import Metrics

Run = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""Called in a thread with (key, items); returns one result per item."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting:
    key: Hashable
    item: Any
    result: asyncio.Future[Any]


class Batcher:
    """Queue in front of a function that computes batches, one batch at a time.

    A batch holds what waited when the one before it ended. An item that arrives at an idle batcher is
    computed at once, so a single client waits for nobody, and batches grow with the load.

    Args:
        run: Computes a batch. All its items have one key.
        size: Most items of a batch.
        metrics: Metrics of this replica.
    """

    def __init__(self, run: Run, *, size: int, metrics: Metrics) -> None:
        self._run, self._size, self._metrics = run, size, metrics
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        # The network uses all its threads in one forward pass; a second one would only compete.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")

    async def submit(self, key: Hashable, item: Any) -> Any:
        """Return the result of an item. Cancelling the call removes the item from the queue.

        Args:
            key: Items of one batch have the same key, such as their class names.
            item: Argument of `run`.
        """
        waiting = _Waiting(key, item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._metrics.queue.set(len(self._waiting))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await waiting.result
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
            self._metrics.queue.set(len(self._waiting))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            # The oldest item chooses the key, so no key starves.
            key = self._waiting[0].key
            batch = [waiting for waiting in self._waiting if waiting.key == key][: self._size]
            for waiting in batch:
                self._waiting.remove(waiting)
            self._metrics.batch_views.observe(len(batch))
            start = time.perf_counter()
            try:
                items = [waiting.item for waiting in batch]
                results = await loop.run_in_executor(self._thread, self._run, key, items)
            except Exception as error:
                for waiting in batch:
                    if not waiting.result.done():
                        waiting.result.set_exception(error)
                continue
            finally:
                self._metrics.batch_seconds.observe(time.perf_counter() - start)
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.result.done():
                    waiting.result.set_result(result)

    def close(self) -> None:
        """End the thread after its present batch."""
        self._thread.shutdown(wait=False, cancel_futures=True)
