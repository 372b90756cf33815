"""Numbers that are no longer numbers end a run on all of its workers."""

import torch

from evclip_ray.training.distributed import summed


class Diverged(ArithmeticError):
    """The loss or the logits are no longer numbers."""


def require_finite(is_finite: bool, what: str) -> None:
    """Nothing, where `is_finite` is True on every worker; called by all of them together.

    Raises:
        Diverged: on all workers, saying that `what` is not finite.
    """
    if summed(torch.tensor([float(not is_finite)])).item() > 0:
        raise Diverged(f"{what} not finite")
