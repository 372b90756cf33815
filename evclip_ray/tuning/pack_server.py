"""What a pack is to its trials: something to ask for their next epoch, again if an answer got lost."""

import collections
import functools
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

import torch

from evclip_ray.training.at_work import tell_runs
from evclip_ray.training.pack import Event, Failed, Pack
from evclip_ray.training.pauses import Epoch, Metrics
from evclip_ray.tuning.trial import failure, objective, release_memory, start_run, trial_folder

log = logging.getLogger(__name__)

Config = dict[str, Any]


class PackServer:
    """A pack behind calls from the processes of its trials; a thread of its own trains.

    `epoch` and `leave` may be called from many threads at once, and again for a call that got lost.
    """

    def __init__(self, *, threads: int) -> None:
        self._threads, self._pack = threads, Pack()
        self._changed = threading.Condition()
        self._configs: dict[str, Config] = {}
        self._asked: set[str] = set()
        self._left: set[str] = set()
        self._answers: dict[str, Metrics | None] = {}
        self._callers: collections.Counter[str] = collections.Counter()
        threading.Thread(target=self._train_for_ever, daemon=True).start()

    def epoch(self, config: Config) -> Metrics | None:
        """Train the trial of `config` to the end of its next epoch and return what to report; None: no more.

        The first call joins the pack. A trial waits after every epoch until it is called for again.
        """
        name = config["folder"]
        with self._changed:
            self._callers[name] += 1
            turn = self._callers[name]
            self._configs[name] = config
            self._asked.add(name)
            self._changed.notify_all()
            # Who calls again has no use for an earlier call any more.
            self._changed.wait_for(lambda: name in self._answers or self._callers[name] != turn)
            return self._answers.pop(name) if self._callers[name] == turn else None

    def leave(self, name: str) -> None:
        """Drop a trial where it is, if it is still here."""
        with self._changed:
            self._asked.discard(name)
            self._answers.pop(name, None)
            self._left.add(name)
            self._changed.notify_all()

    def _train_for_ever(self) -> None:
        # The number is the thread's own in OpenMP.
        torch.set_num_threads(self._threads)
        try:
            while True:
                self._take_in()
                self._tell(self._pack.round())
        except BaseException:
            # What fails outside of any one trial fails all: a new process begins with what is on disk.
            log.exception("the pack failed; its trials go on after their last epochs, in a new process")
            os._exit(1)

    def _take_in(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._left or self._pack.is_busy)
            asked, self._asked = self._asked, set()
            left, self._left = self._left, set()
        for name in left:
            self._pack.remove(name)
        new = {name for name in asked if name not in self._pack}
        for name in asked:
            if name in new:
                self._pack.add(name, functools.partial(start_run, self._configs[name]))
            else:
                self._pack.go_on(name)
        if new or left:
            tell_runs(trial_folder(found) for name, found in self._configs.items() if name in self._pack)
        if left:
            release_memory()

    def _tell(self, events: Mapping[str, Event]) -> None:
        answers = {name: self._answer(name, event) for name, event in events.items()}
        with self._changed:
            self._answers.update(answers)
            self._changed.notify_all()

    def _answer(self, name: str, event: Event) -> Metrics | None:
        if isinstance(event, Epoch):
            return objective(event.metrics)
        if isinstance(event, Failed):
            return failure(self._configs[name], event.error)
        return None
