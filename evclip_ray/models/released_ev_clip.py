"""Reader of the checkpoints that the authors of EV-CLIP published.

A published file contains all networks: `image_prompt_learner.enc.trunk.*` (video encoder, Omnivore),
`image_prompt_learner.dec.*` (trained), `image_encoder.*` and `text_encoder.*` (CLIP). In a model with both
prompts, the trained tensors are `dec.dec_s.*` (mask) and `dec.dec_t.*` (context); in a model with one prompt
they are `dec.*` without this level. All sizes follow from the shapes.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from evclip_ray.config import ConfigError
from evclip_ray.models.clip_names import find_backbone_of
from evclip_ray.models.layers.context_prompt import ContextGenerator
from evclip_ray.models.layers.mask_prompt import MaskGenerator
from evclip_ray.models.video_encoder import FrozenVideoEncoder, find_encoder_of, video_encoder_from_state
from evclip_ray.models.weight_files import describe_mismatch, read_tensors

_DECODER = "image_prompt_learner.dec."
_MASK_LEVEL, _CONTEXT_LEVEL = "dec_s.", "dec_t."
_MASK_MARK, _CONTEXT_MARK = "projection2spatial.0.weight", "feature_adaptation.0.weight"

_NAMES = {
    "mask_generator.": (
        (r"^projection2spatial\.4\.", "squeeze.norm."),
        (r"^projection2spatial\.", "squeeze.mlp."),
        (r"^upsample(\d)\.", r"expand\1."),
        (r"^block(\d)\.", r"blocks\1."),
        (r"^channel_projection\.", "head."),
        (r"^logit_scale$", "sharpness"),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
    ),
    "context_generator.": (
        (r"^feature_adaptation\.0\.", "project.0."),
        (r"^feature_adaptation\.2\.", "norm."),
        (r"^context_scale$", "scale"),
    ),
}
_COMPUTED = ("relative_position_index", "attn_mask")
"""Ends of the names of buffers that follow from the sizes and are not loaded."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a published model; None where the shapes do not determine one.

    Attributes:
        prompts: "both", "mask" or "context".
        dim: D_z.
        num_frames: T.
        embed_dim: D.
        image_size: Side in pixels.
    """

    prompts: str
    dim: int
    num_frames: int | None = None
    embed_dim: int | None = None
    image_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """Published EV-CLIP checkpoint, translated.

    Attributes:
        state: Trained tensors under our names.
        method: Settings of the method that they fit.
        sizes: Sizes of the model.
        backbone: Name of its CLIP; None if the file has no towers or unknown ones.
    """

    state: dict[str, Tensor]
    method: dict[str, Any]
    sizes: Sizes
    backbone: str | None


class Prompts(NamedTuple):
    """Mask (B, H, W) in [0, 1] and context (B, 1, D); None if the model has no such prompt."""

    mask: Tensor | None
    context: Tensor | None


class PublishedPrompts(nn.Module):
    """Video encoder and generators of a published checkpoint."""

    def __init__(self, encoder: FrozenVideoEncoder, published: Published) -> None:
        super().__init__()
        sizes, method = published.sizes, published.method
        self.encoder = encoder
        # The sizes that belong to a missing prompt are None.
        self.mask_generator = self.context_generator = None
        if sizes.num_frames and sizes.image_size:
            side = sizes.image_size // 32
            self.mask_generator = MaskGenerator(
                sizes.dim, map_size=(side, side), num_frames=sizes.num_frames, **method["mask"]
            )
        if sizes.embed_dim:
            self.context_generator = ContextGenerator(sizes.dim, sizes.embed_dim)

    def forward(self, video: Tensor) -> Prompts:
        """Return the prompts of videos (B, 3, T, H, W) that are normalised by ImageNet's statistics."""
        video_map = self.encoder(video.transpose(1, 2))
        mask = None if self.mask_generator is None else self.mask_generator(video_map)
        context = None if self.context_generator is None else self.context_generator(video_map)
        return Prompts(mask=mask, context=context)


def load_published_state(state: Mapping[str, Tensor], **expected: Any) -> PublishedPrompts:
    """Return a module that maps a video to the prompts of a published model.

    Args:
        state: Published state dict; the prefix "module." of DistributedDataParallel is removed.
        **expected: Required values of fields of `Sizes`.

    Raises:
        ConfigError: The state is not that of an EV-CLIP, or a size differs from the expected one.
    """
    published = read_published(state)
    _refuse_others(published.sizes, expected)
    encoder_name = published.method["video_encoder"]["name"]
    encoder = video_encoder_from_state(state, encoder_name, weights="published")
    module = PublishedPrompts(encoder, published)
    _load_generators(module, published.state)
    return module


def import_published(path: Path | str) -> Published:
    """Read a published checkpoint file: trained tensors under our names, and the config that they fit.

    The file remains the source of its frozen networks: it may be the `weights` of the video encoder and
    `pretrained` of the backbone.

    Raises:
        ConfigError: The file does not contain plain tensors, or is not an EV-CLIP.
    """
    path = Path(path)
    state = read_tensors(path)
    try:
        load_published_state(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    published = read_published(state)
    encoder = {**published.method["video_encoder"], "weights": str(path)}
    return dataclasses.replace(published, method={**published.method, "video_encoder": encoder})


def read_published(state: Mapping[str, Tensor]) -> Published:
    """Translate a published state dict without building a network.

    Raises:
        ConfigError: The state has no trained prompts, or its video encoder is not in `VIDEO_ENCODERS`.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    mask, context = _decoders(state)
    sizes = _sizes(mask, context)
    method = {
        "name": "ev_clip",
        "prompts": sizes.prompts,
        "normalization": "imagenet",
        "video_encoder": {"name": find_encoder_of(state)},
    }
    if mask:
        method["mask"] = _mask_config(mask)
    trained = _renamed("mask_generator.", mask) | _renamed("context_generator.", context)
    return Published(state=trained, method=method, sizes=sizes, backbone=find_backbone_of(state))


def _decoders(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    trained = {
        key.removeprefix(_DECODER): value
        for key, value in state.items()
        if key.startswith(_DECODER) and not key.endswith(_COMPUTED)
    }
    mask, context = _below(_MASK_LEVEL, trained), _below(_CONTEXT_LEVEL, trained)
    # A model with a single prompt lacks the level that separates the two.
    if _MASK_MARK in trained:
        mask = trained
    elif _CONTEXT_MARK in trained:
        context = trained
    if not mask and not context:
        raise ConfigError(f"not an EV-CLIP checkpoint: it must contain {_DECODER}* with a mask or a context")
    return mask, context


def _below(level: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(level): value for key, value in state.items() if key.startswith(level)}


def _sizes(mask: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Sizes:
    try:
        embed_dim, dim = context[_CONTEXT_MARK].shape if context else (None, 0)
        if not mask:
            return Sizes("context", dim, embed_dim=embed_dim)
        # The layer norm spans the whole map, (h, w, D_z, 1). The map is 1/32 of the image in each direction.
        side, _, dim, _ = mask["projection2spatial.4.weight"].shape
        # The first layer works over the T/2 steps of the map.
        num_frames = 2 * mask[_MASK_MARK].shape[0]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"not an EV-CLIP checkpoint: {_DECODER}* lacks or reshapes {error}") from None
    return Sizes("both" if context else "mask", dim, num_frames, embed_dim, 32 * side)


def _mask_config(mask: Mapping[str, Tensor]) -> dict[str, Any]:
    # Names are block1.<index>...., so the different indices are the blocks of a stage.
    blocks = {key.split(".")[1] for key in mask if key.startswith("block1.")}
    try:
        rows, heads = mask["block1.0.attn.relative_position_bias_table"].shape
        # A linear layer stores its weight as (out, in).
        hidden, width = mask["block1.0.mlp.fc1.weight"].shape
    except KeyError as error:
        raise ConfigError(f"not an EV-CLIP checkpoint: {_DECODER}* lacks {error}") from None
    return {
        "width": width,
        "depth": len(blocks),
        "heads": heads,
        # A table has one row per offset inside a window: (2 w - 1) squared.
        "window": (math.isqrt(rows) + 1) // 2,
        "mlp_ratio": hidden / width,
    }


def _renamed(generator: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, name in _NAMES[generator]:
            key = re.sub(pattern, name, key)
        # The published norm has a trailing time axis of length one.
        renamed[generator + key] = value.squeeze(-1) if key.startswith("squeeze.norm.") else value
    return renamed


def _refuse_others(sizes: Sizes, expected: Mapping[str, Any]) -> None:
    actual = dataclasses.asdict(sizes)
    for name, value in expected.items():
        if name not in actual:
            raise ConfigError(f"a published model has no size {name!r}; it has {', '.join(actual)}")
        if actual[name] is not None and actual[name] != value:
            raise ConfigError(f"the checkpoint has {name} = {actual[name]!r}, expected {value!r}")


def _load_generators(module: PublishedPrompts, state: Mapping[str, Tensor]) -> None:
    try:
        result = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"its prompts have no published shape: {describe_mismatch(error)}") from None
    # The encoder was loaded before, so its tensors are not in this state.
    missing = [key for key in result.missing_keys if not key.startswith("encoder.")]
    if missing or result.unexpected_keys:
        raise ConfigError(
            f"its prompts have no published shape: missing {missing[:3]}, "
            f"unexpected {result.unexpected_keys[:3]}"
        )
