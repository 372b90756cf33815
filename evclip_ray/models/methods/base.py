"""The contract of a method: an adaptation of a frozen CLIP.

A method is an `nn.Module` whose registered parameters are exactly what is trained. The frozen
networks it reads are *held*, not registered (see `Frozen`): `parameters()`, `state_dict()`,
`train()` and DDP therefore see the adapter and nothing else, and a checkpoint cannot hold a
backbone by accident. Gradients still pass through a frozen tower; frozen is not `no_grad`.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from evclip_ray.config import Config

if TYPE_CHECKING:
    from evclip_ray.models.clip import FrozenCLIP
    from evclip_ray.models.video_encoder import FrozenVideoEncoder

Cacheable = Literal["class_text", "frame_features", "video_map", "video_mean"]
"""What a method can read from a cache instead of computing it (DESIGN section 3).

"video_mean": of the map only its mean over time and place is read, a 200th of it.
"""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The frozen networks that a method reads; a plain object, so that no module registers them."""

    clip: "FrozenCLIP"
    video_encoder: "FrozenVideoEncoder | None" = None


@dataclasses.dataclass(frozen=True)
class VideoBatch:
    """One view of each of B videos: its pixels, and what was cached of it.

    `pixels`: (B, T, 3, H, W) float in [0, 1], None when the cached features are enough.
    `video_map`: (B, D_z, T', h, w), the frozen video encoder's last map, or None; for a method that
    declares "video_mean", (B, D_z, 1, 1, 1) is as good.
    `frame_features`: (B, T, D), frozen CLIP frame features, un-normalised, or None.
    `labels`: (B,) int64, in training only, or None: a method whose texts are trained may then encode
    those of the batch alone. They change what is computed, never what a video's features are.
    """

    pixels: Tensor | None
    video_map: Tensor | None = None
    frame_features: Tensor | None = None
    labels: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class MethodOutput:
    """What a forward gives: `logits` (B, N); the rest where the method has it.

    `frame_features`: (B, T, D) un-normalised; `video_features`: (B, D) L2-normalised;
    `mask`: (B, H, W) in [0, 1]; `context`: (B, 1, D); `extra`: anything else, by name.
    """

    logits: Tensor
    frame_features: Tensor | None = None
    video_features: Tensor | None = None
    mask: Tensor | None = None
    context: Tensor | None = None
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


class Method(nn.Module, abc.ABC):
    """Base of all methods. Subclasses register only what they train."""

    caches: frozenset[Cacheable] = frozenset()
    """What may stand in for a computation without changing its result."""

    needs_video_encoder: ClassVar[bool] = False

    def __init__(self, frozen: Frozen) -> None:
        super().__init__()
        # Not a submodule on purpose: a dataclass is invisible to nn.Module's registration.
        self.frozen = frozen

    @abc.abstractmethod
    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of a batch over the method's classes, and what its losses need."""

    @abc.abstractmethod
    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """The named terms whose sum is minimised, each already weighted. `labels`: (B,) int64."""

    def num_trainable(self) -> int:
        """The number of parameters that training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class MethodConfig(Config):
    """Base of the methods' configs; `name` picks the one that validates the rest."""

    name: str

    @classmethod
    def resolve(cls, data: Mapping[str, Any]) -> type[Config]:
        """The config class of the method that `data["name"]` names."""
        from evclip_ray.models.methods import find_method

        return find_method(str(data.get("name", "ev_clip"))) if cls is MethodConfig else cls

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return True

    @property
    def needs_video_encoder(self) -> bool:
        """Whether the method reads the frozen video encoder."""
        return False

    @property
    def caches(self) -> frozenset[Cacheable]:
        """What its method declares (`Method.caches`), known before anything is loaded."""
        return frozenset()

    def build(
        self, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
    ) -> Method:
        """The method's module over `frozen`, its sizes passed on as flat keywords.

        `image_size`: side in pixels of the square views that it will be given.
        """
        raise TypeError(f"{type(self).__name__} must say how its method is built")
