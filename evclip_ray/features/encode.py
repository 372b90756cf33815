"""One feature file made by one frozen network, without Ray; a batch that does not fit is halved."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from evclip_ray.artifacts import LEDGER, write_ledger
from evclip_ray.config import ConfigError
from evclip_ray.data.shards.prepare import ShardSet, open_shards
from evclip_ray.features.cached_networks import STAGE, facts
from evclip_ray.features.format import feature_file, is_sound, write_features
from evclip_ray.features.spec import FeatureSpec, text_key, view_key
from evclip_ray.features.view_cache import cut_views, read_frames
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.layers.frames import read_frames as encode_frames
from evclip_ray.models.methods.base import VideoBatch
from evclip_ray.models.video_encoder import FrozenVideoEncoder, load_video_encoder

log = logging.getLogger(__name__)

# Enough to fill the device; with 8 frames a video, 512 images on a GPU.
_VIDEOS_AT_ONCE = {"cpu": 4, "cuda": 64}


@dataclasses.dataclass(frozen=True)
class ViewJob:
    """The features of one view of the videos of one frame shard: `file` of the shard set in `shards`."""

    store: Path
    spec: FeatureSpec
    shards: Path
    file: str
    shard_key: str
    view: int

    @property
    def key(self) -> str:
        """The digest of everything that the values depend on."""
        return view_key(self.spec, self.shard_key, self.view)

    @torch.no_grad()
    def values(self, device: torch.device) -> Tensor:
        """(M, ...) on the CPU, in the precision of the spec."""
        network = load_network(self.spec, device)
        shards = _open(self.shards)
        positions = [position for position, _ in shards.files()[self.file]]

        def encode(start: int, stop: int) -> Tensor:
            some = positions[start:stop]
            frames = read_frames(shards, some, self.view).to(device)
            assert self.spec.crop_size is not None
            pixels = cut_views(
                frames, shards, some, self.view, size=self.spec.crop_size, augment=self.spec.augment
            )
            return _encoded(self.spec, network, pixels)

        return in_batches(encode, len(positions), at_once=_VIDEOS_AT_ONCE[device.type])


@dataclasses.dataclass(frozen=True)
class TextJob:
    """The features of one list of texts."""

    store: Path
    spec: FeatureSpec
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """The digest of everything that the values depend on."""
        return text_key(self.spec, self.texts)

    def values(self, device: torch.device) -> Tensor:
        """(N, D) float32, un-normalised."""
        clip = load_network(self.spec, device)
        assert isinstance(clip, FrozenCLIP)
        return clip.encode_text_raw(self.texts)


Job = ViewJob | TextJob


def is_done(job: Job) -> bool:
    """Whether the job's file is there and sound, and the ledger beside it."""
    path = feature_file(job.store, job.spec.key, job.key)
    return is_sound(path, job.key) and (path.parent / LEDGER).is_file()


def run(job: Job, device: torch.device) -> None:
    """Write the job's file, unless another study just has.

    Raises:
        ConfigError: weights that cannot be had, or are not those that the job was planned for.
        OSError: the disk is full, or the folder cannot be written to.
    """
    if is_done(job):
        return
    path = feature_file(job.store, job.spec.key, job.key)
    network = load_network(job.spec, device)
    # Before the first file: a folder with files has a ledger, whatever is killed.
    if not (path.parent / LEDGER).is_file():
        write_ledger(path.parent, STAGE, inputs=job.spec.inputs, network=facts(network))
    write_features(path, job.values(device), job.key)


def load_network(spec: FeatureSpec, device: torch.device) -> FrozenCLIP | FrozenVideoEncoder:
    """The network of a spec; loaded once in a process, and kept."""
    network: FrozenCLIP | FrozenVideoEncoder
    if spec.kind in ("video_map", "video_mean"):
        network = load_video_encoder(spec.network, spec.weights or "", device=str(device))
    else:
        network = load_clip(spec.network, spec.weights, device=str(device))
    if network.weights != spec.origin:
        raise ConfigError(
            f"{spec.network}: was planned with weights {spec.origin}, here they are {network.weights}; "
            "every node must have the same files"
        )
    return network


def in_batches(encode: Callable[[int, int], Tensor], count: int, *, at_once: int) -> Tensor:
    """`encode(start, stop)` of items 0 to `count` - 1, in batches, joined on the CPU.

    A batch that does not fit in the device's memory is tried again at half the size, down to one item.
    """
    parts, start = [], 0
    while start < count:
        try:
            parts.append(encode(start, min(start + at_once, count)).cpu())
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once //= 2
            torch.cuda.empty_cache()
            log.warning("out of memory: going on with %d videos at once", at_once)
        else:
            start += at_once
    return torch.cat(parts)


def _encoded(spec: FeatureSpec, network: FrozenCLIP | FrozenVideoEncoder, pixels: Tensor) -> Tensor:
    """(B, T, 3, S, S) in [0, 1] -> (B, ...): exactly what a step would compute, in the spec's precision."""
    dtype = getattr(torch, spec.precision)
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=spec.precision == "bfloat16"):
        if isinstance(network, FrozenCLIP):
            assert spec.normalization is not None
            return encode_frames(network, VideoBatch(pixels), spec.normalization).to(dtype)
        video_map: Tensor = network(network.prepare(pixels))
        if spec.kind == "video_mean":
            video_map = video_map.float().mean((2, 3, 4), keepdim=True)
        return video_map.to(dtype)


@functools.lru_cache(maxsize=4)
def _open(folder: Path) -> ShardSet:
    return open_shards(folder)
