"""Queue actor that hands shards to tasks. The module imports nothing heavy, so the actor starts at once."""

from collections import defaultdict, deque


class ShardQueue:
    """Queue of pickled shard jobs.

    Ray restarts a failed task from its beginning. The queue therefore remembers what each task received and
    returns the same jobs again, so that none is lost.
    """

    def __init__(self, jobs: list[bytes]) -> None:
        self._waiting = deque(jobs)
        self._received: defaultdict[int, list[bytes]] = defaultdict(list)

    def take(self, task: int, index: int) -> bytes | None:
        """Return the job number `index` of a task, from 0, not counting its initial one; None when empty."""
        # Ray runs the calls of an actor one after another, so no lock is needed.
        received = self._received[task]
        if index == len(received) and self._waiting:
            received.append(self._waiting.popleft())
        return received[index] if index < len(received) else None
