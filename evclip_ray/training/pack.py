"""A pack: several runs in one process, their frames through the frozen networks in one batch.

In every round each member computes up to the images that a frozen network is to read; these go through it
together; each member makes its loss of its own features; all losses go backward in one pass; and each
member takes its step. A frozen network in evaluation mode treats every row of a batch by itself and has
no weights to train, and members share no parameter, so that each gets the features and the gradient that
it would have had alone, up to rounding: matrix products of another size may add in another order. Data
order, augmentation, dropout, optimiser, schedule and checkpoints are each member's own.

Members come and go between rounds, and may differ in anything: what cannot be computed together (another
backbone, another number of frames for the video network) is computed in turn. On a CPU, so is what gains
nothing together: frames that are many already for each member.

Memory may not hold all at once. Then the members that were computing together begin again from their
last epochs, in groups of half the size. A member that fails, or whose numbers are no longer numbers, is
out by itself: no gradient of its loss flows into another's.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from evclip_ray.evaluation.evaluate import autocast
from evclip_ray.models.asks import Ask, AskFrameFeatures
from evclip_ray.training.loop import Run
from evclip_ray.training.pauses import Epoch, Loss, Metrics, Pause, Pausing

log = logging.getLogger(__name__)

# Some twenty frames of 224 pixels. More at once are no faster than one after the other there, as the cores
# are busy already, and hold more memory, which the system takes back and gives anew in every step.
_VALUES_ON_A_CPU = 3 * 2**20

StartRun = Callable[[], Run]
"""Makes a run; called again when it begins again from its last epoch."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """A member has trained to its end; its `metrics` have been told by an Epoch before."""

    metrics: Metrics


@dataclasses.dataclass(frozen=True)
class Failed:
    """A member is out, by an error of its own."""

    error: Exception


Event = Epoch | Ended | Failed


class Member:
    """A run in a pack: where it paused, and the random state that is its own."""

    def __init__(self, name: str, start: StartRun) -> None:
        self.name, self._start = name, start
        self.pause: Pause | None = None
        self.event: Event | None = None
        self._steps: Pausing | None = None
        self.begin()

    def begin(self) -> None:
        """Begin, or begin again: the run goes on after its last epoch."""
        self.close()
        self.pause, self.event = None, None
        self._steps = None
        self._run: Run | None = None
        self._random: dict[str, Tensor] | None = None

    def go_on(self, answer: Tensor | None = None) -> None:
        """Compute up to the next pause; an end or an error becomes the member's event.

        Raises:
            torch.OutOfMemoryError: memory did not suffice; the member must begin again.
        """
        self.pause = None
        try:
            with self._own_randomness():
                self.pause = self._running().send(answer)
            self.event = self.pause if isinstance(self.pause, Epoch) else None
        except StopIteration as end:
            self.event = Ended(end.value)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            log.warning("%s: out of its pack: %s: %s", self.name, type(error).__name__, error)
            self.event = Failed(error)

    def close(self) -> None:
        """Stop where it is; what it has open is closed."""
        if self._steps is not None:
            self._steps.close()

    @property
    def surroundings(self) -> contextlib.AbstractContextManager[None]:
        """The number format of its forward."""
        assert self._run is not None
        return autocast(self._run.device, self._run.dtype)

    @property
    def number_format(self) -> torch.dtype | None:
        """What tells surroundings apart."""
        return None if self._run is None else self._run.dtype

    def _running(self) -> Pausing:
        if self._steps is None:
            self._run = self._start()
            self._steps = self._run.steps()
        return self._steps

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """torch's random state is the process's; inside of this it is the member's."""
        gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=gpus):
            if self._random is not None:
                torch.set_rng_state(self._random["cpu"])
                if "gpu" in self._random:
                    torch.cuda.set_rng_state(self._random["gpu"])
            yield
            self._random = {"cpu": torch.get_rng_state()}
            if gpus:
                self._random["gpu"] = torch.cuda.get_rng_state()


class Pack:
    """Runs by name. `width`: of how many the frames are computed together, None for all."""

    def __init__(self, *, width: int | None = None) -> None:
        self.width = width
        self._members: dict[str, Member] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def is_busy(self) -> bool:
        """Whether a member has anything to compute before it is heard."""
        return any(member.event is None for member in self._members.values())

    def add(self, name: str, start: StartRun) -> None:
        """A new member; it begins in the next round."""
        assert name not in self._members
        self._members[name] = Member(name, start)

    def go_on(self, name: str) -> None:
        """Let a member that has told of an epoch train on."""
        member = self._members[name]
        if isinstance(member.event, Epoch):
            member.event = None

    def remove(self, name: str) -> None:
        """Stop a member where it is; its checkpoint is that of its last epoch."""
        member = self._members.pop(name, None)
        if member is not None:
            member.close()

    def round(self) -> dict[str, Event]:
        """A training step of every member that is training; what became of those that told or ended."""
        computing = [member for member in self._members.values() if member.event is None]
        for group in list(self._groups(computing)):
            self._attempt(group)
        events = {member.name: member.event for member in computing if member.event is not None}
        for name, event in events.items():
            if not isinstance(event, Epoch):
                self.remove(name)
        return events

    def _groups(self, members: Sequence[Member]) -> Iterator[list[Member]]:
        width = self.width or max(1, len(members))
        for start in range(0, len(members), width):
            yield list(members[start : start + width])

    def _attempt(self, group: list[Member]) -> None:
        try:
            _step_together(group)
            return
        except torch.OutOfMemoryError as error:
            # Its traceback holds the step's tensors.
            problem = torch.OutOfMemoryError(str(error))
        # Who has finished an epoch has saved it, and holds nothing of the step.
        stranded = [member for member in group if member.event is None]
        for member in stranded:
            member.begin()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(group) == 1:
            group[0].event = Failed(problem)
            return
        self.width = max(1, len(group) // 2)
        log.warning(
            "memory does not hold %d runs at once (%s): they go on %d at a time, from their last epochs",
            len(group), problem, self.width,
        )  # fmt: skip


def _step_together(group: list[Member]) -> None:
    for member in group:
        # The first round of a run, or the first after an epoch that was heard.
        if not isinstance(member.pause, Ask | Loss):
            member.go_on()
    # Without a gradient: nothing of it is kept, and members may want the very same.
    _answer_asks(group, before=AskFrameFeatures.turn)
    for part in list(_parts(group)):
        _answer_asks(part)
        losing = [member for member in part if isinstance(member.pause, Loss)]
        if losing:
            torch.autograd.backward([_loss(member) for member in losing])
        for member in losing:
            member.go_on()


def _answer_asks(group: list[Member], *, before: float = math.inf) -> None:
    """Until nobody asks any more, those of an earlier turn first; only of turns `before` this one."""
    while asking := [m for m in group if isinstance(m.pause, Ask) and m.pause.turn < before]:
        turn = min(_ask(member).turn for member in asking)
        for together in _by_key(member for member in asking if _ask(member).turn == turn):
            _answer(together)


def _parts(group: list[Member]) -> Iterator[list[Member]]:
    """Whose frames go through a network at once: on a GPU all, on a CPU as long as that gains anything."""
    part: list[Member] = []
    values = 0
    for member in group:
        more = 0
        if isinstance(member.pause, AskFrameFeatures) and member.pause.images.device.type == "cpu":
            more = member.pause.images.numel()
        if part and values + more > _VALUES_ON_A_CPU:
            yield part
            part, values = [], 0
        part.append(member)
        values += more
    if part:
        yield part


def _answer(members: list[Member]) -> None:
    asks = [_ask(member) for member in members]
    with members[0].surroundings:
        answers = type(asks[0]).answer_together(asks)
    for member, answer in zip(members, answers, strict=True):
        member.go_on(answer)


def _by_key(members: Iterable[Member]) -> list[list[Member]]:
    found: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        found.setdefault((member.number_format, *_ask(member).key), []).append(member)
    return list(found.values())


def _ask(member: Member) -> Ask:
    assert isinstance(member.pause, Ask)
    return member.pause


def _loss(member: Member) -> Tensor:
    assert isinstance(member.pause, Loss)
    return member.pause.value
