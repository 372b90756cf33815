"""The actor that tasks ask which shards are still to be written. It imports nothing: it starts at once."""

from collections import defaultdict, deque


class ShardQueue:
    """Gives shards to tasks, pickled. What a task was given it is given again, should it be started anew."""

    def __init__(self, jobs: list[bytes]) -> None:
        self._left = deque(jobs)
        self._given: defaultdict[int, list[bytes]] = defaultdict(list)

    def take(self, task: int, place: int) -> bytes | None:
        """What a task does at a `place`, from 0, after the one it came with; None where nothing is left."""
        given = self._given[task]
        if place == len(given) and self._left:
            given.append(self._left.popleft())
        return given[place] if place < len(given) else None
