"""A warning of Ray's native code that is no concern of whoever reads what this program prints."""

import contextlib
import os
from collections.abc import Iterator


def hush_restart_warning() -> None:
    """Have it said where nobody hears it that a pool's actors have arguments in Ray's store.

    Ray says so once a process, as an error, of any actor that may be restarted; Ray Data keeps the arguments
    of its own for as long as they are needed. Nothing but that one line is lost. The actor that it is said
    of here is never started.
    """
    import ray

    nowhere = {"evclip-ray: nowhere": 1.0}
    with _unheard():
        actor = ray.remote(_Nobody).options(num_cpus=0, resources=nowhere, max_restarts=1).remote(ray.put(0))
    ray.kill(actor)


class _Nobody:
    def __init__(self, nothing: int) -> None:
        """An argument is all that it is for."""


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """The standard error of native code goes nowhere for the time of the block."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
