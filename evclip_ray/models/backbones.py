"""Table of CLIP variants: our name -> open_clip's name, weights and sizes.

Every other open_clip name is accepted as well. The activation of a row is the one that its weights were
trained with: OpenAI's weights need QuickGELU, and GELU changes the features by 2 %. `open_clip:ViT-B-16`
selects open_clip's architecture literally where a row has the same name.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Iterator
from typing import Any

import open_clip
import torch
from torch import nn

from evclip_ray.config import ConfigError, nearest
from evclip_ray.models.activation import Activation
from evclip_ray.models.frozen import RANDOM
from evclip_ray.models.world_weights import WORLD, WorldTokenizer, world_words

_LITERAL = "open_clip:"
_CONTEXT, _WORLD_CONTEXT = 77, 24
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
        return self.open_clip in _WORLD_SIZES

    @property
    def context_length(self) -> int:
        """Longest text in tokens."""
        if self.is_world:
            return _WORLD_CONTEXT
        config = open_clip.get_model_config(self.open_clip) or {}
        return int(config.get("text_cfg", {}).get("context_length", _CONTEXT))

    @property
    def tags(self) -> list[str]:
        """Names of the known weights: open_clip's tags, or "world"."""
        return [WORLD] if self.is_world else open_clip.list_pretrained_tags_by_model(self.open_clip)

    @property
    def has_both_activations(self) -> bool:
        """Whether open_clip has the architecture with GELU and with QuickGELU."""
        return self.open_clip + _QUICKGELU in _architectures()

    def activation_of(self, pretrained: str | None) -> Activation:
        """Return the activation of an open_clip tag, or the default of the row for other weights."""
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

_DEBUG_SIZES = {"debug_small": (32, 1), "debug": (64, 2), "debug_large": (128, 4)}
"""Width and layers of the image tower. All three share the same text tower."""


def _debug_config(width: int, layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "width": width,
            "layers": layers,
            "head_width": 32,
        },
        "text_cfg": {"context_length": _CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
        # The value of a trained CLIP. With open_clip's initial value, 14.3, learning rates that work on the
        # debug towers would not carry over to trained ones.
        "init_logit_scale": math.log(100),
    }


_WORLD_SIZES = {
    "world-xs": (8, (1, 1, 1, 1), 64),
    "world-s": (12, (1, 1, 1, 1), 96),
    "world-m": (16, (1, 1, 2, 1), 96),
}
"""Width and blocks per stage of the image tower (a ResNet), and width of the text tower."""


def world_model(name: str, vocab_size: int) -> nn.Module:
    """Build a CLIP of the small pretrained world with new weights.

    Args:
        name: A "world-*" row of BACKBONES.
        vocab_size: Number of tokens.
    """
    width, layers, text_width = _WORLD_SIZES[name]
    config = {
        "embed_dim": BACKBONES[name].embed_dim,
        # A ResNet trains on a CPU in bfloat16 twice as fast as a ViT of the same accuracy.
        "vision_cfg": {"image_size": BACKBONES[name].image_size, "width": width, "layers": list(layers)},
        "text_cfg": {
            "context_length": _WORLD_CONTEXT,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_width // 32,
            "layers": 2,
        },
    }
    return _with_colours(open_clip.CLIP(**config), name)


def find_backbone(name: str) -> Backbone:
    """Return the row called `name`, or a row made from open_clip's config of that name.

    Raises:
        ConfigError: open_clip has no such architecture either. The message gives the nearest name.
    """
    literal = name.removeprefix(_LITERAL)
    if literal == name and name in BACKBONES:
        return BACKBONES[name]
    config = open_clip.get_model_config(literal) if literal in _architectures() else None
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


def build(architecture: str, pretrained: str | None = None, *, device: str = "cpu") -> nn.Module:
    """Build an open_clip model.

    Args:
        architecture: open_clip's name, or one of the debug sizes.
        pretrained: open_clip tag; None gives random weights. The world's weights are loaded by `load_clip`.
        device: Device of the weights; "meta" needs no memory and serves for counting operations.
    """
    with torch.device(device), _without_random_notice():
        if architecture in _DEBUG_SIZES:
            return _with_colours(open_clip.CLIP(**_debug_config(*_DEBUG_SIZES[architecture])), architecture)
        if architecture in _WORLD_SIZES:
            return world_model(architecture, WorldTokenizer(world_words()).vocab_size)
        model: nn.Module = open_clip.create_model(
            architecture,
            pretrained=pretrained,
            pretrained_text=False,
            device=device,
            force_preprocess_cfg=_colours(architecture, pretrained),
        )
    return model


@contextlib.contextmanager
def _without_random_notice() -> Iterator[None]:
    # open_clip logs this for every model whose weights we load ourselves, on the root logger. Where weights
    # stay random, `random_weights` logs it.
    def is_relevant(record: logging.LogRecord) -> bool:
        return "Model initialized randomly" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_relevant)
    try:
        yield
    finally:
        root.removeFilter(is_relevant)


def _colours(architecture: str, pretrained: str | None) -> dict[str, tuple[float, ...]]:
    # open_clip stores the colours per tag. Without a tag it would normalise a SigLIP with the colours of
    # OpenAI's CLIP.
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained or not tags:
        return {}
    tag = open_clip.get_pretrained_cfg(architecture, tags[0])
    return {key: tag[key] for key in ("mean", "std") if tag.get(key)}


def _with_colours(model: nn.Module, name: str) -> nn.Module:
    preprocess = {
        "size": BACKBONES[name].image_size,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    return model


@functools.cache
def _architectures() -> frozenset[str]:
    return frozenset(open_clip.list_models())
