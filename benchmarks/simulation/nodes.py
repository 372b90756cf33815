"""Times at which the machines of a simulated cluster start and at which spot machines are lost."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Loss:
    """Loss of a machine at `down`, with its replacement ready at `up` (both in seconds)."""

    down: float
    up: float


_NEVER = Loss(math.inf, math.inf)


class Node:
    """GPU machine that is available from `up` seconds on, except for losses drawn from `seed`."""

    def __init__(
        self, *, up: float, start_seconds: float, losses_per_hour: float, seed: tuple[int, ...]
    ) -> None:
        self.up = up
        self._losses: list[Loss] = []
        self._draw = _losses(up, start_seconds, losses_per_hour, np.random.default_rng(seed))

    def loss(self, number: int) -> Loss:
        """Return the loss with this number, counted from 0; infinite times if there is none."""
        while len(self._losses) <= number:
            self._losses.append(next(self._draw))
        return self._losses[number]


def _losses(
    up: float, start_seconds: float, per_hour: float, generator: np.random.Generator
) -> Iterator[Loss]:
    if not per_hour:
        yield from itertools.repeat(_NEVER)
    while True:
        down = up + float(generator.exponential(3600 / per_hour))
        up = down + start_seconds
        yield Loss(down, up)
