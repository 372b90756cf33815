"""Storage or network whose rate is shared equally by all transfers, up to a limit per transfer."""

import heapq
import itertools

import simpy


class Link:
    """Link on which n simultaneous transfers run at min(`each`, `total` / n) bytes per second.

    All transfers have the same rate at any time. One number is therefore enough: the bytes that each transfer
    received since the link was last idle. The next transfer to end has the fewest bytes beyond that number.
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
        """Return an event that fires when `num_bytes` have been transferred."""
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
        """Schedule the end of the next transfer. A later transfer replaces this plan."""
        self._plan += 1
        remaining = max(0.0, self._waiting[0][0] - self._given)
        timeout = self._env.timeout(remaining / self._rate, self._plan)
        timeout.callbacks.append(self._end)

    def _end(self, event: simpy.Event) -> None:
        if event.value != self._plan:
            return
        self._advance()
        # The first transfer has ended by definition. The tolerance absorbs rounding errors.
        reached = max(self._given, self._waiting[0][0]) * (1 + 1e-12)
        while self._waiting and self._waiting[0][0] <= reached:
            heapq.heappop(self._waiting)[2].succeed()
        if self._waiting:
            self._wake_up()
