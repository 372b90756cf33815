"""BACKBONES: our name of a CLIP variant -> how open_clip calls it, and its sizes.

Any other open_clip name is taken as it is. A row's architecture is the one its weights were trained
with (OpenAI's need QuickGELU: with GELU the features are off by 2 %); to ask for an open_clip
architecture literally although a row has its name, write `open_clip:ViT-B-16`.
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
from evclip_ray.models.frozen import RANDOM

_LITERAL = "open_clip:"
_QUICKGELU = "-quickgelu"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A CLIP variant.

    `open_clip`: name of the architecture, less its `-quickgelu`; `pretrained`: default weights, an
    open_clip tag; `quickgelu`: the activation of those weights; `image_size`: side in pixels;
    `embed_dim`: D; `gmac`: multiply-accumulates of the image tower, 1e9 a frame, None when not known.
    """

    open_clip: str
    pretrained: str | None
    quickgelu: bool
    image_size: int
    embed_dim: int
    gmac: float | None

    def architecture(self, pretrained: str | None) -> str:
        """The open_clip name whose activation is that of the weights `pretrained` (a tag, a file, None)."""
        tag = open_clip.get_pretrained_cfg(self.open_clip, pretrained or "")
        quickgelu = bool(tag.get("quick_gelu", False)) if tag else self.quickgelu
        return self.open_clip + (_QUICKGELU if quickgelu else "")


BACKBONES: dict[str, Backbone] = {
    "RN50": Backbone("RN50", "openai", True, 224, 1024, 6.11),
    "RN101": Backbone("RN101", "openai", True, 224, 512, 9.77),
    "ViT-B-32": Backbone("ViT-B-32", "openai", True, 224, 512, 4.41),
    "ViT-B-16": Backbone("ViT-B-16", "openai", True, 224, 512, 17.56),
    "ViT-L-14": Backbone("ViT-L-14", "openai", True, 224, 768, 81.0),
    "ViT-L-14-336": Backbone("ViT-L-14-336", "openai", True, 336, 768, 190.96),
    "debug_small": Backbone("debug_small", RANDOM, False, 64, 64, 0.000623),
    "debug": Backbone("debug", RANDOM, False, 64, 64, 0.00254),
    "debug_large": Backbone("debug_large", RANDOM, False, 64, 64, 0.01525),
}

_DEBUG_SIZES = {"debug_small": (32, 1), "debug": (64, 2), "debug_large": (128, 4)}
"""Width and layers of the image tower; the text tower is the same."""


def _debug_config(width: int, layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64, "patch_size": 16, "width": width, "layers": layers, "head_width": 32
        },
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
        # What training brings CLIP to; at open_clip's own start, 14.3, no learning rate carries over.
        "init_logit_scale": math.log(100),
    }  # fmt: skip


def find_backbone(name: str) -> Backbone:
    """The row called `name`, or one made from the open_clip config of that name.

    Raises:
        ConfigError: open_clip has no such architecture either (the nearest name is given).
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
        quickgelu=literal.endswith(_QUICKGELU),
        image_size=size if isinstance(size, int) else size[0],
        embed_dim=config["embed_dim"],
        gmac=None,
    )


def build(architecture: str, pretrained: str | None = None, *, device: str = "cpu") -> nn.Module:
    """The open_clip model of that name.

    `pretrained`: a tag, None for random weights; `device`: "meta" costs no memory,
    for counting.
    """
    with torch.device(device), _without_random_notice():
        if architecture in _DEBUG_SIZES:
            return _debug_model(architecture)
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
    # open_clip says it of every model that it is not itself given the weights of, to the root logger;
    # where weights do stay random, we say so.
    def is_news(record: logging.LogRecord) -> bool:
        return "Model initialized randomly" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_news)
    try:
        yield
    finally:
        root.removeFilter(is_news)


def _colours(architecture: str, pretrained: str | None) -> dict[str, tuple[float, ...]]:
    # open_clip knows them by tag; without one it would give a SigLIP, say, the colours of OpenAI's CLIP.
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained or not tags:
        return {}
    tag = open_clip.get_pretrained_cfg(architecture, tags[0])
    return {key: tag[key] for key in ("mean", "std") if tag.get(key)}


def _debug_model(name: str) -> nn.Module:
    model: nn.Module = open_clip.CLIP(**_debug_config(*_DEBUG_SIZES[name]))
    image_size = BACKBONES[name].image_size
    preprocess = {
        "size": image_size,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    return model


@functools.cache
def _architectures() -> frozenset[str]:
    return frozenset(open_clip.list_models())
