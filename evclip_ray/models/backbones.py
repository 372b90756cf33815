"""Table of CLIP variants: our name -> open_clip's name, weights and sizes.

Every other open_clip name is accepted as well. The activation of a row is the one that its weights were
trained with: OpenAI's weights need QuickGELU, and GELU changes the features by 2 %. `open_clip:ViT-B-16`
selects open_clip's architecture literally where a row has the same name.

The sizes of open_clip's architectures are read from its JSON files: importing it takes seconds, and wrong
settings are reported before that. Weights and their tags need the import.
"""

import dataclasses
import functools
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.config import ConfigError, nearest
from evclip_ray.models.activation import Activation
from evclip_ray.models.weight_names import RANDOM, WORLD

_LITERAL = "open_clip:"
CONTEXT, WORLD_CONTEXT = 77, 24
_QUICKGELU = "-quickgelu"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """CLIP variant.

    Attributes:
        open_clip: open_clip's name of the architecture without the suffix `-quickgelu`.
        pretrained: open_clip tag of the default weights.
        quickgelu: Whether these weights were trained with QuickGELU. It is also the activation of random
            weights, and was that of all local files in versions that did not ask for it.
        image_size: Side of the input in pixels.
        embed_dim: Dimension D of the shared space.
        gmac: Multiply-accumulate operations of the image tower per frame, in 1e9; None if unknown.
    """

    open_clip: str
    pretrained: str | None
    quickgelu: bool
    image_size: int
    embed_dim: int
    gmac: float | None

    @property
    def is_world(self) -> bool:
        """Whether the backbone belongs to the small pretrained world, whose weights are package data."""
        return self.open_clip in WORLD_SIZES

    @property
    def context_length(self) -> int:
        """Longest text in tokens."""
        if self.is_world:
            return WORLD_CONTEXT
        config = _architectures().get(self.open_clip, {})
        return int(config.get("text_cfg", {}).get("context_length", CONTEXT))

    @property
    def tags(self) -> list[str]:
        """Names of the known weights: open_clip's tags, or "world"."""
        if self.is_world:
            return [WORLD]
        import open_clip

        tags: list[str] = open_clip.list_pretrained_tags_by_model(self.open_clip)
        return tags

    @property
    def has_both_activations(self) -> bool:
        """Whether open_clip has the architecture with GELU and with QuickGELU."""
        return self.open_clip + _QUICKGELU in _architectures()

    def activation_of(self, pretrained: str | None) -> Activation:
        """Return the activation of an open_clip tag, or the default of the row for other weights."""
        import open_clip

        tag = open_clip.get_pretrained_cfg(self.open_clip, pretrained or "")
        # The activation belongs to the weights, not to the architecture: a tag of open_clip overrides the
        # row's default.
        quickgelu = bool(tag.get("quick_gelu", False)) if tag else self.quickgelu
        return "quickgelu" if quickgelu else "gelu"

    def architecture(self, activation: Activation) -> str:
        """Return open_clip's name of the architecture with an activation."""
        is_variant = activation == "quickgelu" and self.has_both_activations
        return self.open_clip + (_QUICKGELU if is_variant else "")


BACKBONES: dict[str, Backbone] = {
    "RN50": Backbone("RN50", "openai", True, 224, 1024, 6.11),
    "RN101": Backbone("RN101", "openai", True, 224, 512, 9.77),
    "ViT-B-32": Backbone("ViT-B-32", "openai", True, 224, 512, 4.41),
    "ViT-B-16": Backbone("ViT-B-16", "openai", True, 224, 512, 17.56),
    "ViT-L-14": Backbone("ViT-L-14", "openai", True, 224, 768, 81.0),
    "ViT-L-14-336": Backbone("ViT-L-14-336", "openai", True, 336, 768, 190.96),
    "world-xs": Backbone("world-xs", WORLD, False, 96, 64, 0.01028),
    "world-s": Backbone("world-s", WORLD, False, 96, 96, 0.02291),
    "world-m": Backbone("world-m", WORLD, False, 96, 128, 0.04303),
    "debug_small": Backbone("debug_small", RANDOM, False, 64, 64, 0.000623),
    "debug": Backbone("debug", RANDOM, False, 64, 64, 0.00254),
    "debug_large": Backbone("debug_large", RANDOM, False, 64, 64, 0.01525),
}

WORLD_SIZES = {
    "world-xs": (8, (1, 1, 1, 1), 64),
    "world-s": (12, (1, 1, 1, 1), 96),
    "world-m": (16, (1, 1, 2, 1), 96),
}
"""Width and blocks per stage of the image tower (a ResNet), and width of the text tower."""


def find_backbone(name: str) -> Backbone:
    """Return the row called `name`, or a row made from open_clip's config of that name.

    Raises:
        ConfigError: open_clip has no such architecture either. The message gives the nearest name.
    """
    literal = name.removeprefix(_LITERAL)
    if literal == name and name in BACKBONES:
        return BACKBONES[name]
    config = _architectures().get(literal)
    if config is None:
        known = [*BACKBONES, *_architectures()]
        raise ConfigError(f"backbone {name!r} is unknown; {nearest(literal, known)}")
    size = config["vision_cfg"].get("image_size", 224)
    return Backbone(
        open_clip=literal.removesuffix(_QUICKGELU),
        pretrained=None,
        quickgelu=bool(config.get("quick_gelu", False)),
        image_size=size if isinstance(size, int) else size[0],
        embed_dim=config["embed_dim"],
        gmac=None,
    )


def names_activation(name: str) -> bool:
    """Return whether the name of a backbone states its activation."""
    return name.endswith(_QUICKGELU)


@functools.cache
def _architectures() -> Mapping[str, dict[str, Any]]:
    """Return open_clip's config of each architecture, as `open_clip.list_models` selects them."""
    if (loaded := sys.modules.get("open_clip")) is not None:
        # It also knows the configs that a program has added.
        return {name: loaded.get_model_config(name) for name in loaded.list_models()}
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    assert folders, "open_clip is a dependency"
    files = Path(folders[0], "model_configs").glob("*.json")
    configs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    needed = {"embed_dim", "vision_cfg", "text_cfg"}
    return {name: config for name, config in configs.items() if needed <= config.keys()}
