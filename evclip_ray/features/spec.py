"""Specifications and keys of cached features: everything that would change a value.

The key of a file covers its spec, its frame shard (manifest rows, video files, decoder, temporal sampling)
and its view. Any other change reuses the file. More videos, more cached views or another backbone add files
(new shards, new views, a new spec) and leave the existing ones valid.
"""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any, Literal

from evclip_ray.artifacts import digest
from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.models.activation import Activation, ActivationSetting
from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.clip_weights import find_weights
from evclip_ray.models.setting_types import Normalization
from evclip_ray.models.video_encoder import VIDEO_ENCODERS
from evclip_ray.models.weight_files import file_origin, find_weight_file
from evclip_ray.models.world_weights import WORLD, world_origin
from evclip_ray.records import is_random

Kind = Literal["frame_features", "video_map", "video_mean", "class_text"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]

# 2: enlarged views are resized by the plain bilinear kernel, which differs from format 1 by up to 2e-5.
_FORMAT = 2

_INITIALISERS = ("torch", "torchvision", "open_clip_torch")
"""Libraries that draw random weights. Another version may draw other values from the same seed."""


# The path of weights differs between machines. `origin` has the digest of the file, and the activation where
# it is not the usual one. The device has a rule of its own.
_NOT_INPUTS = ("weights", "activation", "device")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One kind of features of one network.

    Attributes:
        kind: Kind of the features, which decides their shape.
        network: Name of the network.
        weights: The weights to load: a tag or a path.
        origin: Identity of the weights: a tag, "file:" and a digest, or "random"; an activation that is not
            the default of the weights follows in parentheses.
        precision: Precision of the forward pass and of the stored values.
        crop_size: Side of the views in pixels; None for texts.
        augment: Augmentation of cached training views; None for the fixed view.
        normalization: Normalisation of CLIP's input colours; None for other networks.
        activation: Activation of a CLIP; None for other networks.
        device: Type of the device that computes the features, that of the runs that read them. Float32
            results of a GPU and of a CPU differ by rounding.
    """

    kind: Kind
    network: str
    weights: str | None
    origin: str
    precision: Precision = "float32"
    crop_size: int | None = None
    augment: AugmentConfig | None = None
    normalization: Normalization | None = None
    activation: Activation | None = None
    device: Device = "cpu"

    @property
    def inputs(self) -> dict[str, Any]:
        """Everything that would change a value; the path of the weights is left out."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _NOT_INPUTS}
        augment = None if self.augment is None else self.augment.model_dump(mode="json")
        conditions: dict[str, Any] = {"versions": _versions()} if is_random(self.origin) else {}
        # Keys of features on a CPU stay those of versions without the device.
        if self.device != "cpu":
            conditions["device"] = self.device
        return fields | {"augment": augment, "format": _FORMAT} | conditions

    @property
    def key(self) -> str:
        """Digest of `inputs`, which is also the name of the folder."""
        return digest(self.inputs)


def frame_features(
    backbone: str,
    weights: str | None,
    *,
    activation: ActivationSetting = "auto",
    precision: Precision,
    normalization: Normalization,
    augment: AugmentConfig | None,
) -> FeatureSpec:
    """Return the spec of CLIP's frame features, (T, D) per view, un-normalised.

    Args:
        backbone: Name of the CLIP.
        weights: Tag, local file or "random"; None for the usual weights of the backbone.
        activation: Activation of the CLIP; "auto" takes that of the weights.
        precision: Precision of the image tower and of the stored features.
        normalization: Statistics that normalise the colours.
        augment: Augmentation of the training views; None for the fixed view.
    """
    return dataclasses.replace(
        _of_clip("frame_features", backbone, weights, activation),
        precision=precision,
        crop_size=find_backbone(backbone).image_size,
        augment=augment,
        normalization=normalization,
    )


def video_map(
    encoder: str,
    weights: str,
    *,
    backbone: str,
    precision: Precision,
    augment: AugmentConfig | None,
    mean: bool = False,
) -> FeatureSpec:
    """Return the spec of the video encoder's last map, (D_z, T/2, h, w) per view.

    Args:
        encoder: Name of the video encoder.
        weights: Tag, local file or "random".
        backbone: Name of the CLIP, which only sets the size of the views.
        precision: Precision of the encoder and of the stored map.
        augment: Augmentation of the training views; None for the fixed view.
        mean: Store the mean of the map, (D_z, 1, 1, 1), which takes less space.
    """
    kind: Kind = "video_mean" if mean else "video_map"
    size = find_backbone(backbone).image_size
    return FeatureSpec(kind, encoder, weights, _origin(encoder, weights), precision, size, augment)


def class_text(backbone: str, weights: str | None, *, activation: ActivationSetting = "auto") -> FeatureSpec:
    """Return the spec of CLIP's text features, (N, D), un-normalised, always in float32.

    Args:
        backbone: Name of the CLIP.
        weights: As for `frame_features`.
        activation: As for `frame_features`.
    """
    return _of_clip("class_text", backbone, weights, activation)


def view_key(spec: FeatureSpec, shard_key: str, view: int) -> str:
    """Return the digest of everything that the features of one view of a shard depend on."""
    return digest({"spec": spec.key, "shard": shard_key, "view": view})


def text_key(spec: FeatureSpec, texts: Sequence[str]) -> str:
    """Return the digest of everything that the features of a list of texts depend on."""
    return digest({"spec": spec.key, "texts": list(texts)})


def _of_clip(kind: Kind, backbone: str, weights: str | None, activation: ActivationSetting) -> FeatureSpec:
    found = find_weights(backbone, weights, activation)
    return FeatureSpec(kind, backbone, weights, found.identity, activation=found.activation)


def _origin(encoder: str, weights: str) -> str:
    """Return the identity of weights; of a file it is the digest, which does not depend on its path."""
    row = VIDEO_ENCODERS.get(encoder)
    if row is not None and weights == WORLD and WORLD in row.tags:
        return world_origin(encoder)
    file = find_weight_file(weights)
    return weights if file is None else file_origin(file)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _INITIALISERS}
