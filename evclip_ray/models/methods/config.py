"""Base class of the settings of methods. It imports no PyTorch, so that wrong settings are found at once."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evclip_ray.config import Config
from evclip_ray.models.methods import find_method

if TYPE_CHECKING:
    from evclip_ray.models.batch import Frozen
    from evclip_ray.models.methods.method import Method

Cacheable = Literal["class_text", "frame_features", "video_map", "video_mean"]
"""Frozen results that a method may read from a cache.

"video_mean" in addition to "video_map": the method reads only the mean of the map over time and space,
which takes 1/200 of the disk space.
"""


class MethodConfig(Config):
    """Base class of the methods' configs. `name` selects the subclass that validates the other settings.

    A subclass declares each fact about its method once: the module reads settings, never declarations.
    """

    MODULE: ClassVar[str] = ""
    """Module with the function `build` of a built-in method, which imports PyTorch; empty for others."""
    name: str

    @classmethod
    def resolve(cls, data: Mapping[str, Any]) -> type[Config]:
        """Return the config class of the method that `data["name"]` names."""
        # A subclass validates itself; only the base class looks up the method by its name.
        if cls is not MethodConfig:
            return cls
        kind: type[Config] = find_method(str(data.get("name", "ev_clip")))
        return kind

    @property
    def trains(self) -> bool:
        """Whether the method has anything to train. A method without it cannot be searched."""
        return True

    @property
    def needs_video_encoder(self) -> bool:
        """Whether the method reads the frozen video encoder of its setting `video_encoder`."""
        return False

    @property
    def copies_clip(self) -> bool:
        """Whether the method trains a copy of CLIP, which must not start from rounded weights."""
        return False

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Frozen results that may be read from a cache without changing the output of the method.

        Cached results are keyed by the backbone, the precision, the view, and these settings of the
        method: `template` (class_text), `normalization` (frame_features), `video_encoder` (video_map).
        If any other setting changes a result, leave that result out. Methods without such results
        compute everything in every step.
        """
        # The safe default: a wrong declaration would silently read features of other settings.
        return frozenset()

    def build(
        self, frozen: "Frozen", *, class_names: Sequence[str], num_frames: int, image_size: int
    ) -> "Method":
        """Return the module of the method.

        Args:
            frozen: Frozen networks; `video_encoder` is None unless `needs_video_encoder`.
            class_names: N class names as words, all different.
            num_frames: T, frames per view.
            image_size: Side of the square views, in pixels.
        """
        if not self.MODULE:
            raise TypeError(f"{type(self).__name__} must override build()")
        network: Method = importlib.import_module(self.MODULE).build(
            self, frozen, class_names=class_names, num_frames=num_frames, image_size=image_size
        )
        return network


@dataclasses.dataclass(frozen=True)
class MethodCase:
    """One configuration of a method that the conformance suite (`evclip_ray.testing`) builds and trains.

    A method's module lists its cases in `METHOD_CASES`. The suite uses four classes, 8 frames unless stated,
    the backbone "debug" (W = 64, two blocks, D = 64) and the video encoder "swin3d_debug".

    Attributes:
        num_trainable: Expected number of trainable parameters; 0 if nothing is trained.
        label: Distinguishes the cases of one method in test names; "" for the defaults.
        settings: Settings that differ from the defaults, nested as in YAML.
        needs_vit: The method works inside a ViT, so a ResNet is refused.
        num_frames: Values of T to test.
        is_random: Training draws random numbers (dropout). Two passes are then compared with equal seeds.
        learning_rate: Rate at which 20 steps on eight videos lower the loss by a tenth.
        steps_to_move: Steps until every tensor has moved. A factor that starts at zero blocks the gradient
            of the factors before it for one step.
        never_read: Parts of the names of tensors that have no influence on the output.
        unread_in_one_frame: The same, for T = 1 only.
        undecided_in_one_frame: Names start with this: with T = 1 their gradient is rounding noise.
    """

    num_trainable: int
    label: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs_vit: bool = False
    num_frames: tuple[int, ...] = (1, 2, 8)
    is_random: bool = False
    learning_rate: float = 1e-2
    steps_to_move: int = 2
    never_read: tuple[str, ...] = ()
    unread_in_one_frame: tuple[str, ...] = ()
    undecided_in_one_frame: tuple[str, ...] = ()
