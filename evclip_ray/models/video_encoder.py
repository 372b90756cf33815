"""Frozen video network that the prompts are computed from: a 3D Swin transformer.

Omnivore's trunk and torchvision's `swin3d` are the same network under two sets of names, so one module loads
both kinds of weights. The attention window of Omnivore's larger size spans 16 frame pairs, that of
torchvision 8. The window is derived from the checkpoint.

Licences: torchvision's Kinetics weights follow the terms of Kinetics; Omnivore's weights are CC-BY-NC 4.0. A
checkpoint that was trained on them inherits the non-commercial terms.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.video import SwinTransformer3d

from evclip_ray.artifacts import file_digest
from evclip_ray.config import ConfigError
from evclip_ray.models.downloads import no_download
from evclip_ray.models.frozen import META, RANDOM, FrozenNetwork, in_own_format, random_weights
from evclip_ray.models.preprocess import prepare
from evclip_ray.models.swin3d import VIDEO_ENCODERS as VIDEO_ENCODERS
from evclip_ray.models.swin3d import Swin3D, find_video_encoder
from evclip_ray.models.weight_files import read_tensors
from evclip_ray.models.world_weights import HEADS, WORLD, read_world_tensors, world_origin

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_PUBLISHED_TRUNK = "image_prompt_learner.enc.trunk."
"""Prefix of the video network in a published EV-CLIP checkpoint."""
_INDEX = "relative_position_index"
_BIAS_TABLE = "features.0.0.attn.relative_position_bias_table"


class FrozenVideoEncoder(FrozenNetwork):
    """Video network up to its last map.

    Attributes:
        dim: Number of channels D_z of the map.
        image_size: Side of the input in pixels.
        stride: Side of a position of the map in pixels of the input.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, network: SwinTransformer3d, *, name: str, image_size: int, weights: str) -> None:
        super().__init__(name=name, weights=weights)
        self.network = network.requires_grad_(False)
        self.image_size = image_size
        self.dim = int(network.num_features)
        # The layers are the stages with a halving between each two.
        self.stride = int(network.patch_embed.tuple_patch_size[-1]) << (len(network.features) // 2)
        self.train(False)

    def prepare(
        self, pixels: Tensor, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Tensor:
        """Resize and normalise frames.

        Args:
            pixels: (B, T, 3, H, W) in [0, 1].
            mean: Mean of each colour; None uses ImageNet's.
            std: Standard deviation of each colour; None uses ImageNet's.

        Returns:
            (B, T, 3, S, S).
        """
        return prepare(pixels, self.image_size, mean=mean or self.mean, std=std or self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Return the last map (B, D_z, T/2, h, w), after the layer norm, of prepared images (B, T, 3, S, S).

        Raises:
            ValueError: T is odd. A patch spans two frames.
        """
        network = self.network
        num_frames = images.shape[1]
        if num_frames % 2:
            raise ValueError(f"{self.name} reads pairs of frames: T must be even, got {num_frames}")
        # (B, T, 3, S, S) -> (B, 3, T, S, S), the order of a 3D convolution.
        dtype = network.norm.weight.dtype
        with in_own_format(dtype, images.device):
            patches = network.patch_embed(images.transpose(1, 2).to(dtype))
            last: Tensor = network.norm(network.features(patches))
        # Swin keeps channels last: (B, T/2, h, w, D_z) -> (B, D_z, T/2, h, w).
        return last.permute(0, 4, 1, 2, 3)


def map_size(image_size: int, stride: int = 32) -> tuple[int, int]:
    """Return (h, w) of the last map of square frames, rounded up.

    >>> map_size(224), map_size(64), map_size(96, 16)
    ((7, 7), (2, 2), (6, 6))
    """
    side = -(-image_size // stride)
    return side, side


def load_video_encoder(
    name: str,
    weights: str = "kinetics400",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FrozenVideoEncoder:
    """Load a frozen video encoder. The process keeps it for later calls.

    Args:
        name: Row of VIDEO_ENCODERS.
        weights: One of the row's tags, a local file (Omnivore's or torchvision's names; safetensors or a
            state dict), or "random". Random weights depend on the name alone.
        device: Device of the weights. "meta" gives a network without memory, for counting operations.
        dtype: Number format of the weights.

    Raises:
        ConfigError: The name or the weights are unknown, cannot be downloaded, or do not fit.
    """
    return _load(name, weights, str(device), dtype)


@functools.lru_cache(maxsize=4)
def _load(name: str, weights: str, device: str, dtype: torch.dtype) -> FrozenVideoEncoder:
    row = find_video_encoder(name)
    if device == META:
        with torch.device(META):
            network = row.build()
        return FrozenVideoEncoder(network, name=name, image_size=row.image_size, weights=META)
    encoder = _encoder(name, weights)
    return encoder.to(device=device, dtype=dtype)


def _encoder(name: str, weights: str) -> FrozenVideoEncoder:
    row = VIDEO_ENCODERS[name]
    if weights == RANDOM:
        with random_weights(f"video encoder {name}"):
            network = row.build()
        return FrozenVideoEncoder(network, name=name, image_size=row.image_size, weights=RANDOM)
    if weights in row.tags and weights == WORLD:
        return video_encoder_from_state(read_world_tensors(name), name, weights=world_origin(name))
    if weights in row.tags:
        return video_encoder_from_state(_fetch(name, weights), name, weights=weights)
    path = Path(weights)
    if not path.is_file():
        known = ", ".join([*row.tags, RANDOM])
        raise ConfigError(
            f"video encoder {name}: unknown weights {weights!r}. Give a local file or one of {known}."
        )
    return video_encoder_from_state(
        read_tensors(path), name, weights=f"file:{file_digest(path)}", source=weights
    )


def video_encoder_from_state(
    state: Mapping[str, Tensor], name: str, *, weights: str, source: str = "the state dict"
) -> FrozenVideoEncoder:
    """Build an encoder from a state dict under Omnivore's or torchvision's names.

    Args:
        state: Tensors by name.
        name: Row of VIDEO_ENCODERS.
        weights: Origin of the tensors, recorded with every result.
        source: Name of the file or object in error messages.

    Raises:
        ConfigError: Tensors are missing, unknown, or of another size.
    """
    row = VIDEO_ENCODERS[name]
    state = torchvision_names(state)
    network = row.build(_window_of(state, row))
    misfits = _misfits(network, state)
    if misfits:
        raise ConfigError(f"{source}: does not contain the weights of {name}: {misfits}")
    # Not strict: index tables follow from the window and are not in the file.
    network.load_state_dict(dict(state), strict=False)
    return FrozenVideoEncoder(network, name=name, image_size=row.image_size, weights=weights)


def find_encoder_of(state: Mapping[str, Tensor]) -> str:
    """Return the name of the row of VIDEO_ENCODERS that the tensors of `state` fit.

    Raises:
        ConfigError: No row fits. The message lists the differences from the nearest row.
    """
    state = torchvision_names(state)
    misfits = {}
    for name, row in VIDEO_ENCODERS.items():
        # Only names and shapes are compared, so no memory is needed for the rows that do not fit.
        with torch.device("meta"):
            misfits[name] = _misfits(row.build(_window_of(state, row)), state)
        if not misfits[name]:
            return name
    name = min(misfits, key=lambda name: len(misfits[name]))
    raise ConfigError(f"contains no known video encoder; the nearest is {name}: {misfits[name]}")


_OMNIVORE_NAMES = (
    (r"^layers\.(\d)\.blocks\.", lambda match: f"features.{2 * int(match[1])}."),
    (r"^layers\.(\d)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
    (r"\.mlp\.fc1\.", lambda _: ".mlp.0."),
    (r"\.mlp\.fc2\.", lambda _: ".mlp.3."),
)


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an Omnivore trunk to torchvision's names. Names of torchvision are kept.

    Unused tensors are dropped: classifiers, the patches of the depth channel and index tables.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith(_PUBLISHED_TRUNK) for key in state):
        state = {
            key.removeprefix(_PUBLISHED_TRUNK): value
            for key, value in state.items()
            if key.startswith(_PUBLISHED_TRUNK)
        }
    # torchvision puts blocks and downsampling layers into one list: stage i has the blocks at 2 i and the
    # downsampling at 2 i + 1.
    renamed = {}
    for key, value in state.items():
        for pattern, name in _OMNIVORE_NAMES:
            key = re.sub(pattern, name, key)
        if not key.startswith(("head.", HEADS, "depth_patch_embed.")) and not key.endswith(_INDEX):
            renamed[key] = value
    return renamed


def _window_of(state: Mapping[str, Tensor], row: Swin3D) -> tuple[int, int, int]:
    # The table has one row per offset inside a window of t x 7 x 7: (2t - 1) * 13 * 13 rows.
    table = state.get(_BIAS_TABLE)
    _, height, width = row.window
    offsets = (2 * height - 1) * (2 * width - 1)
    if table is None or table.shape[0] % offsets:
        return row.window
    return (table.shape[0] // offsets + 1) // 2, height, width


def _misfits(network: SwinTransformer3d, state: Mapping[str, Tensor]) -> str:
    expected = {key: value for key, value in network.state_dict().items() if not key.endswith(_INDEX)}
    resized = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another size": sorted(resized),
    }
    return "; ".join(
        f"{len(keys)} {problem} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for problem, keys in problems.items()
        if keys
    )


def _fetch(name: str, tag: str) -> Mapping[str, Tensor]:
    weights = get_model_weights(name)[VIDEO_ENCODERS[name].tags[tag]]
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise no_download(f"video encoder {name}", tag, f"{weights.url}: {error}") from error
    return state
