"""A storage or a network that transfers share: each has an equal part, up to what one can take."""

import heapq
import itertools

import simpy


class Link:
    """n transfers at once run at min(`each`, `total` / n) bytes a second.

    All transfers have the same rate at any moment, so one number says how much each has been given since
    the link was last at rest, and the next to end is the one that asked for the least beyond that.
    """

    def __init__(self, env: simpy.Environment, *, total: float, each: float) -> None:
        self._env, self._total, self._each = env, total, each
        self._waiting: list[tuple[float, int, simpy.Event]] = []
        self._order = itertools.count()
        self._given, self._since, self._plan = 0.0, 0.0, 0
        self.num_bytes = 0.0
        self.busy_seconds = 0.0
        """Time, weighted by the share of `total` that was in use."""

    def transfer(self, num_bytes: float) -> simpy.Event:
        """An event that happens when so many bytes have passed."""
        self._advance()
        done = self._env.event()
        heapq.heappush(self._waiting, (self._given + num_bytes, next(self._order), done))
        self.num_bytes += num_bytes
        self._wake_up()
        return done

    @property
    def _rate(self) -> float:
        return min(self._each, self._total / len(self._waiting))

    def _advance(self) -> None:
        elapsed, self._since = self._env.now - self._since, self._env.now
        if self._waiting:
            self._given += self._rate * elapsed
            self.busy_seconds += elapsed * self._rate * len(self._waiting) / self._total
        else:
            self._given = 0.0

    def _wake_up(self) -> None:
        """Look again when the next transfer ends, as far as is known now."""
        self._plan += 1
        left = max(0.0, self._waiting[0][0] - self._given)
        timeout = self._env.timeout(left / self._rate, self._plan)
        timeout.callbacks.append(self._end)

    def _end(self, event: simpy.Event) -> None:
        if event.value != self._plan:
            return
        self._advance()
        # The first has ended, whatever rounding says.
        reached = max(self._given, self._waiting[0][0]) * (1 + 1e-12)
        while self._waiting and self._waiting[0][0] <= reached:
            heapq.heappop(self._waiting)[2].succeed()
        if self._waiting:
            self._wake_up()
