"""State of every GPU of a simulated cluster at all times: busy, or idle for a reason."""

from collections.abc import Mapping
from enum import StrEnum

import simpy


class Doing(StrEnum):
    """State of a GPU. The value is its description in tables and figures."""

    TRAINING = "training"
    FEATURES = "frozen features"
    NODE = "its machine is starting"
    DECODING = "videos are being decoded"
    OTHERS_FEATURES = "the last frozen features are being made elsewhere"
    START = "a process is loading its networks"
    FETCHING = "data come from the storage"
    WRITING = "files go to the storage"
    DRIVER = "waiting for the driver"
    LOST = "work that a lost machine takes with it"
    NEVER = "there are fewer trials than GPUs"
    ENDED = "the last trials run elsewhere"


BUSY = (Doing.TRAINING, Doing.FEATURES)


class Timesheet:
    """Seconds of the GPUs in each state. A GPU is in exactly one state at any time."""

    def __init__(self, env: simpy.Environment, num_gpus: int) -> None:
        self._env = env
        self._now = [(Doing.NODE, 0.0)] * num_gpus
        self._seconds = dict.fromkeys(Doing, 0.0)

    def enter(self, gpu: int, doing: Doing) -> None:
        """Set the state of a GPU from now on."""
        before, since = self._now[gpu]
        self._seconds[before] += self._env.now - since
        self._now[gpu] = (doing, self._env.now)

    def enter_all(self, doing: Doing) -> None:
        """Set the state of all GPUs from now on."""
        for gpu in range(len(self._now)):
            self.enter(gpu, doing)

    def close(self) -> Mapping[Doing, float]:
        """Return the GPU-seconds in each state up to now."""
        for gpu, (doing, _) in enumerate(self._now):
            self.enter(gpu, doing)
        return dict(self._seconds)
