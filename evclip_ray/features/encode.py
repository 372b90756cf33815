"""Computation of one feature file with one frozen network, without Ray."""

import dataclasses
import functools
import threading
from pathlib import Path

import torch
from torch import Tensor

from evclip_ray.artifacts import LEDGER, write_ledger
from evclip_ray.config import ConfigError
from evclip_ray.data.shards.prepare import ShardSet, open_shards
from evclip_ray.data.transfers import read_frames
from evclip_ray.data.transforms import Frames
from evclip_ray.features.batches import BatchSize, in_batches
from evclip_ray.features.cached_networks import STAGE, network_attributes
from evclip_ray.features.format import feature_file, is_sound, write_features
from evclip_ray.features.spec import FeatureSpec, text_key, view_key
from evclip_ray.features.view_cache import crop_views
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.frozen import device_name, frozen_dtype
from evclip_ray.models.layers.frames import read_frames as encode_frames
from evclip_ray.models.video_encoder import FrozenVideoEncoder, load_video_encoder

# Two threads that miss the cache of networks at the same time would load a network twice.
_loading = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ViewJob:
    """The features of one view of one frame shard: `file` of the shard set in the folder `shards`."""

    store: Path
    spec: FeatureSpec
    shards: Path
    file: str
    shard_key: str
    view: int

    @property
    def key(self) -> str:
        """Digest of everything that the values depend on."""
        return view_key(self.spec, self.shard_key, self.view)

    @torch.no_grad()
    def values(self, device: torch.device) -> Tensor:
        """Compute the features on `device`: (M, ...) on the CPU, in the precision of the spec."""
        network = load_network(self.spec, device)
        shards = _open(self.shards)
        # All decodable videos of the shard in the order of `files`, which gives the row numbers in
        # `FeatureSet`.
        positions = [position for position, _ in shards.files()[self.file]]
        is_pinned = device.type == "cuda"

        def read(start: int, stop: int) -> Frames:
            return read_frames(shards, positions[start:stop], self.view, pinned=is_pinned)

        def encode(frames: Frames, start: int) -> Tensor:
            assert self.spec.crop_size is not None
            pixels = crop_views(
                frames,
                shards,
                positions[start : start + len(frames)],
                self.view,
                size=self.spec.crop_size,
                augment=self.spec.augment,
            )
            return _encoded(self.spec, network, pixels)

        size = _batch_size(self.spec.key, device, shards.view.num_frames)
        return in_batches(read, encode, len(positions), size)


@dataclasses.dataclass(frozen=True)
class TextJob:
    """The features of one list of texts."""

    store: Path
    spec: FeatureSpec
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """Digest of everything that the values depend on."""
        return text_key(self.spec, self.texts)

    def values(self, device: torch.device) -> Tensor:
        """Compute the features on `device`: (N, D) float32, un-normalised."""
        clip = load_network(self.spec, device)
        assert isinstance(clip, FrozenCLIP)
        return clip.encode_text_raw(self.texts)


Job = ViewJob | TextJob


def is_done(job: Job) -> bool:
    """Return whether the job's file is sound and its folder has a ledger."""
    path = feature_file(job.store, job.spec.key, job.key)
    return is_sound(path, job.key) and (path.parent / LEDGER).is_file()


def run_job(job: Job, device: torch.device) -> None:
    """Write the job's file unless it is done.

    Raises:
        ConfigError: the weights are unavailable, or differ from those that the job was planned with.
        OSError: the disk is full, or the folder is not writable.
    """
    # Ray repeats the job of an actor that died, which may have died after it renamed the file.
    if is_done(job):
        return
    path = feature_file(job.store, job.spec.key, job.key)
    network = load_network(job.spec, device)
    # The ledger comes before the first file, so that a crash never leaves files without a ledger.
    if not (path.parent / LEDGER).is_file():
        write_ledger(
            path.parent,
            STAGE,
            inputs=job.spec.inputs,
            network=network_attributes(network),
            # The key has the type of the device only.
            computed_on=device_name(device),
        )
    write_features(path, job.values(device), job.key)


def load_network(spec: FeatureSpec, device: torch.device) -> FrozenCLIP | FrozenVideoEncoder:
    """Return the network of a spec; it is loaded once per process.

    Raises:
        ConfigError: the weights on this node differ from those of the spec.
    """
    with _loading:
        return _load_network(spec, device)


def _load_network(spec: FeatureSpec, device: torch.device) -> FrozenCLIP | FrozenVideoEncoder:
    network: FrozenCLIP | FrozenVideoEncoder
    # Every CLIP encodes texts in float32. A GPU uses the one of a run in bfloat16, the default there, so that
    # the process has one.
    is_rounded = spec.precision == "bfloat16" or spec.kind == "class_text"
    dtype = frozen_dtype(torch.bfloat16 if is_rounded else None, device)
    if spec.kind in ("video_map", "video_mean"):
        network = load_video_encoder(spec.network, spec.weights or "", device=str(device), dtype=dtype)
    else:
        network = load_clip(
            spec.network,
            spec.weights,
            activation=spec.activation or "auto",
            device=str(device),
            dtype=dtype,
        )
    # The origin is part of the key, so other weights must not write a file of this spec.
    if network.weights != spec.origin:
        raise ConfigError(
            f"{spec.network}: planned with the weights {spec.origin}, but this node has {network.weights};"
            " put the same files on every node"
        )
    return network


def _encoded(spec: FeatureSpec, network: FrozenCLIP | FrozenVideoEncoder, pixels: Tensor) -> Tensor:
    """Encode (B, T, 3, S, S) in [0, 1] to (B, ...) exactly as a training step in that precision does."""
    dtype = getattr(torch, spec.precision)
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=spec.precision == "bfloat16"):
        if isinstance(network, FrozenCLIP):
            assert spec.normalization is not None
            return encode_frames(network, VideoBatch(pixels), spec.normalization).to(dtype)
        video_map: Tensor = network(network.prepare(pixels))
        if spec.kind == "video_mean":
            # In float32: a mean of thousands of bfloat16 values would lose its last digits.
            video_map = video_map.float().mean((2, 3, 4), keepdim=True)
        return video_map.to(dtype)


@functools.lru_cache(maxsize=8)
def _batch_size(key: str, device: torch.device, num_frames: int) -> BatchSize:
    """Return the batch size for the spec with `key`: networks and sizes of views differ in memory."""
    return BatchSize(device, num_frames)


# One actor mostly gets jobs of one shard set, whose index would otherwise be read for each job.
@functools.lru_cache(maxsize=4)
def _open(folder: Path) -> ShardSet:
    return open_shards(folder)
