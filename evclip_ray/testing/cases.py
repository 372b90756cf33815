"""Cases of the conformance suite, and how a case is built and trained."""

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from evclip_ray.config import Config, ConfigError, override
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.clip import load_clip
from evclip_ray.models.methods import find_method
from evclip_ray.models.methods.base import Method, MethodCase, MethodConfig
from evclip_ray.models.video_encoder import load_video_encoder

CLASSES = ("walk", "run", "wave", "open a door")
IMAGE_SIZE = 64


@dataclasses.dataclass(frozen=True)
class NamedCase:
    """A case together with the name of its method."""

    method: str
    case: MethodCase

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.method, self.case.label)))

    @property
    def config(self) -> MethodConfig:
        """The validated settings of the case."""
        config: MethodConfig = find_method(self.method).load({"name": self.method, **self.case.settings})
        return config

    def build(self, frozen: Frozen, num_frames: int = 8, seed: int = 0) -> Method:
        """Return the method of the case, initialised with `seed`."""
        return build(self.config, frozen, num_frames, seed)


def build(config: MethodConfig, frozen: Frozen, num_frames: int = 8, seed: int = 0) -> Method:
    """Return the method of a config over the suite's classes, initialised with `seed`."""
    torch.manual_seed(seed)
    return config.build(frozen, class_names=CLASSES, num_frames=num_frames, image_size=IMAGE_SIZE)


def find_cases(methods: Iterable[str]) -> list[NamedCase]:
    """Return the cases of several methods, from `METHOD_CASES` of the module that defines each config.

    Raises:
        ConfigError: A method has no case. The message names the file to edit.
    """
    cases = []
    for name in methods:
        kind = find_method(name)
        listed: tuple[MethodCase, ...] = getattr(sys.modules[kind.__module__], "METHOD_CASES", ())
        if not listed:
            raise ConfigError(
                f"method {name!r} has no conformance case; add METHOD_CASES = (MethodCase(...),) "
                f"to {inspect.getsourcefile(kind)}"
            )
        cases += [NamedCase(name, case) for case in listed]
    return cases


def load_networks(dtype: torch.dtype = torch.float32) -> Frozen:
    """Return the small frozen networks of the suite, with random weights that are equal in every process.

    Args:
        dtype: Format of the image tower and of the video network.
    """
    clip = load_clip("debug", "random", dtype=dtype)
    return Frozen(clip, load_video_encoder("swin3d_debug", "random", dtype=dtype))


def random_videos(count: int, num_frames: int = 8) -> VideoBatch:
    """Return videos that differ from each other and from frame to frame, with all labels in turn."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.rand(count, num_frames, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    pixels = pixels * torch.rand(count, num_frames, 3, 1, 1, generator=generator)
    return VideoBatch(pixels, labels=torch.arange(count) % len(CLASSES))


def train(method: Method, batch: VideoBatch, *, steps: int, lr: float) -> list[float]:
    """Train on one batch.

    Args:
        method: Method to train, in place.
        batch: Labelled batch of every step.
        steps: Number of steps.
        lr: Learning rate of AdamW.

    Returns:
        The loss before each step.
    """
    # Weight decay would also move tensors that have no gradient.
    optimizer = torch.optim.AdamW(method.parameters(), lr=lr, weight_decay=0.0)
    method.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(total_loss(method, method, batch))
        losses[-1].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [loss.item() for loss in losses]


def total_loss(method: Method, model: torch.nn.Module, batch: VideoBatch) -> Tensor:
    """Return the sum of a method's losses; `model` is the method itself or a wrapper such as DDP."""
    assert batch.labels is not None
    return torch.stack(list(method.losses(model(batch), batch.labels).values())).sum()


def variations(config: MethodConfig) -> Iterator[tuple[str, MethodConfig]]:
    """Yield (path, config) with one setting changed at a time, for every valid alternative value.

    Settings that name files or networks stay. Combinations that the config refuses are left out.
    """
    tree = config.model_dump()
    for path, value in _alternatives(config):
        try:
            yield path, type(config).load(override(tree, {path: value}))
        except ConfigError:
            continue


def _alternatives(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in type(config).model_fields.items():
        annotation, value = field.annotation, getattr(config, name)
        if isinstance(value, Config):
            yield from _alternatives(value, f"{prefix}{name}.")
        elif name != "name":
            for other in _other_values(annotation, value):
                yield prefix + name, other


def _other_values(annotation: Any, value: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2]
    if isinstance(value, float):
        return [value / 2 or 0.5]
    if isinstance(value, str) and "{}" in value:
        return ["a photo of {}."]
    return []
