"""Learning curves of trials that are not run: random, but the same for the same seed."""

import functools

import numpy as np
from numpy.typing import NDArray


class Curves:
    """Validation top-1 by epoch, the best so far: a trial's own ceiling, approached at its own speed.

    top-1(e) = c (1 - exp(-e / tau)) + noise, c ~ Beta(4, 3), log tau ~ N(log(E / 8), 0.6^2), E epochs.
    Only the order of trials at a rung matters to a scheduler, and how it changes from rung to rung.
    """

    def __init__(self, *, epochs: int, seed: int, noise: float = 0.01) -> None:
        self._epochs, self._seed, self._noise = epochs, seed, noise
        self.of = functools.cache(self._draw)

    def _draw(self, trial: int) -> NDArray[np.float64]:
        """(E,) of one trial."""
        generator = np.random.default_rng((self._seed, trial))
        ceiling = generator.beta(4, 3)
        tau = self._epochs / 8 * np.exp(0.6 * generator.standard_normal())
        noise = self._noise * generator.standard_normal(self._epochs)
        epochs = np.arange(1, self._epochs + 1)
        return np.maximum.accumulate(np.clip(ceiling * (1 - np.exp(-epochs / tau)) + noise, 0, 1))
