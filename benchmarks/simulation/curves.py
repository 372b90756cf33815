"""Simulated learning curves of trials: random, and reproducible for a seed."""

import functools

import numpy as np
from numpy.typing import NDArray


class Curves:
    """Best validation top-1 so far, by epoch.

    top-1(e) = c (1 - exp(-e / tau)) + noise, where

    - c ~ Beta(4, 3) is the trial's ceiling,
    - log tau ~ N(log(E / 8), 0.6^2) is its speed, with E the number of epochs.

    A scheduler only depends on the order of trials at a rung, and on how it changes from rung to rung.
    """

    def __init__(self, *, epochs: int, seed: int, noise: float = 0.01) -> None:
        self._epochs, self._seed, self._noise = epochs, seed, noise
        self.of = functools.cache(self._draw)

    def _draw(self, trial: int) -> NDArray[np.float64]:
        """Draw the curve (E,) of one trial."""
        generator = np.random.default_rng((self._seed, trial))
        ceiling = generator.beta(4, 3)
        tau = self._epochs / 8 * np.exp(0.6 * generator.standard_normal())
        noise = self._noise * generator.standard_normal(self._epochs)
        epochs = np.arange(1, self._epochs + 1)
        return np.maximum.accumulate(np.clip(ceiling * (1 - np.exp(-epochs / tau)) + noise, 0, 1))
