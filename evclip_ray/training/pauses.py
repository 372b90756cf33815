"""Where a run pauses, for whoever answers it alone or several at once."""

import dataclasses
from collections.abc import Generator
from typing import Any

from torch import Tensor

from evclip_ray.models.asks import Ask

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Loss:
    """A pause of a run until `value` has gone backward."""

    value: Tensor


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A pause of a run until the `metrics` of an epoch have been heard."""

    metrics: Metrics


Pause = Ask | Loss | Epoch
Pausing = Generator[Pause, Any, Metrics]
"""A computation of a run that pauses, and returns metrics."""
