"""Computations that stop where a frozen network is needed, and say what they want of it.

A method of which `forward` runs a frozen tower in its middle can be written as a generator instead: it
yields an `Ask`, is sent the answer, and returns its output. Whoever drives it chooses how the answer is
made. `converse` answers each ask by itself; a pack of runs answers those of all its members in one
forward, which for a network in evaluation mode gives each row the same features, and each its own
gradient.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.video_encoder import FrozenVideoEncoder

Asked = TypeVar("Asked")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Ask(abc.ABC):
    """Something that a frozen network is to compute, answered by a tensor.

    `turn`: asks of a lower turn come earlier in a training step.
    """

    turn: ClassVar[int]

    @property
    @abc.abstractmethod
    def key(self) -> tuple[Any, ...]:
        """Asks of one kind with equal keys can be answered together."""

    @classmethod
    @abc.abstractmethod
    def answer_together(cls, asks: Sequence[Self]) -> list[Tensor]:
        """An answer to each of `asks`, whose keys are equal, in one forward."""

    def answer(self) -> Tensor:
        """The answer to this ask alone."""
        return self.answer_together([self])[0]


@dataclasses.dataclass(frozen=True, eq=False)
class AskVideoMap(Ask):
    """`pixels` (B, T, 3, H, W) in [0, 1] -> the map (B, D_z, T/2, h, w) of a frozen video encoder."""

    encoder: FrozenVideoEncoder
    pixels: Tensor
    turn = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """One network and one shape of a video."""
        return type(self), id(self.encoder.network), self.pixels.shape[1:]

    @classmethod
    def answer_together(cls, asks: Sequence[Self]) -> list[Tensor]:
        """Maps; pixels that several asks share are read once."""
        encoder = asks[0].encoder
        distinct = list({id(ask.pixels): ask.pixels for ask in asks}.values())
        maps: Tensor = encoder(encoder.prepare(torch.cat(distinct)))
        found = zip(map(id, distinct), maps.split([len(pixels) for pixels in distinct]), strict=True)
        by_pixels = dict(found)
        return [by_pixels[id(ask.pixels)] for ask in asks]


@dataclasses.dataclass(frozen=True, eq=False)
class AskFrameFeatures(Ask):
    """`images` (B, T, 3, S, S), prepared -> (B, T, D) of CLIP's image tower, with their gradient."""

    clip: FrozenCLIP
    images: Tensor
    turn = 1

    @property
    def key(self) -> tuple[Any, ...]:
        """One network; the numbers of videos and frames may differ."""
        return type(self), id(self.clip.model), self.images.dtype, self.images.shape[2:]

    @classmethod
    def answer_together(cls, asks: Sequence[Self]) -> list[Tensor]:
        """Un-normalised features of each."""
        frames = [ask.images.flatten(0, 1) for ask in asks]
        features = asks[0].clip.encode_frames(torch.cat(frames)[None])[0]
        parts = features.split([len(images) for images in frames])
        return [part.unflatten(0, ask.images.shape[:2]) for part, ask in zip(parts, asks, strict=True)]


Answered = Generator[Ask, Tensor, Tensor]
"""A computation that may ask, and returns a tensor."""


def converse(steps: Generator[Asked, Any, Result], answer: Callable[[Asked], Any]) -> Result:
    """What `steps` returns in the end, sent `answer(ask)` for each thing that it asks."""
    reply = None
    with contextlib.closing(steps):
        while True:
            try:
                ask = steps.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            reply = answer(ask)


def within(
    surroundings: Callable[[], contextlib.AbstractContextManager[object]],
    steps: Generator[Asked, Any, Result],
) -> Generator[Asked, Any, Result]:
    """`steps`, inside `surroundings()` while it computes and outside of it while it waits.

    A `with` around a generator would stay in force for all that others compute while it waits.
    """
    reply = None
    with contextlib.closing(steps):
        while True:
            with surroundings():
                try:
                    ask = steps.send(reply)
                except StopIteration as end:
                    result: Result = end.value
                    return result
            reply = yield ask
