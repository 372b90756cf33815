"""Progress of long work: its name while it lasts, how much of it is done, and the time that it still needs.

A function that takes seconds names its work with `stage`, or counts it with `report`. Whoever shows progress
receives both by `reporting_to`, for the calls of a block. Without a receiver nothing happens.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from evclip_ray.formatting import duration

Progress = Callable[[str, int, int], None]
"""Receiver of the current work, such as "decoding train", the number of its done parts and of all parts.

Work that cannot be counted has one part: (name, 0, 1) when it begins and (name, 1, 1) when it ends."""

# A context variable and not a parameter: most functions between the command and the work would only pass it
# on. Studies in several threads do not see each other's.
_receiver: ContextVar[Progress | None] = ContextVar("receiver", default=None)


@contextlib.contextmanager
def reporting_to(progress: Progress | None) -> Iterator[None]:
    """Send the progress of the block to a receiver. None keeps the present one."""
    if progress is None:
        yield
        return
    before = _receiver.set(progress)
    try:
        yield
    finally:
        _receiver.reset(before)


def report(name: str, done: int, total: int) -> None:
    """Report that `done` of `total` parts of some work are done."""
    receiver = _receiver.get()
    if receiver is not None:
        receiver(name, done, total)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Report the name of the block's work while it lasts."""
    report(name, 0, 1)
    try:
        yield
    finally:
        report(name, 1, 1)


class Pace:
    """Rate of counted work, from the moment at which it is first reported.

    Args:
        done: Parts that are done at that moment, for example by an earlier call.
        now: Time of that moment in seconds, on any clock.
    """

    def __init__(self, done: int, now: float) -> None:
        self._first, self.started = done, now

    def seconds_left(self, done: int, total: int, now: float) -> float | None:
        """Return the time until all parts are done; None before one was measured.

        >>> Pace(10, now=0.0).seconds_left(30, 40, now=60.0)
        30.0
        """
        measured = done - self._first
        return None if measured <= 0 else (now - self.started) / measured * (total - done)


def time_left(seconds: float | None) -> str:
    """Format an estimate of the remaining time. It is empty without an estimate.

    >>> [time_left(s) for s in (None, 3.2, 47.0, 700.0)]
    ['', 'a few seconds left', 'about 50 s left', 'about 12 min left']
    """
    if seconds is None:
        return ""
    if seconds < 5:
        return "a few seconds left"
    return f"about {duration(round(seconds, -1) if 10 <= seconds < 90 else round(seconds))} left"
