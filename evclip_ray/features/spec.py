"""What is kept of a frozen network, and the key that it is kept under: all that would change a value.

The key of a file is that of its spec, of its frame shard (manifest rows, files, decoder, temporal
sampling) and of its view. Anything else may change, and the file is used again: another learning rate,
more videos (new shards), a larger bank (new views), another backbone (a new spec).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evclip_ray.artifacts import digest, file_digest
from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.layers.frames import Normalization

Kind = Literal["frame_features", "video_map", "video_mean", "class_text"]
Precision = Literal["float32", "bfloat16"]

# 2: views that get larger are resized by the plain bilinear kernel; up to 2e-5 from those of 1.
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One kind of features of one network.

    `network`, `weights`: as they are loaded; `origin`: what the weights are, a tag, "file:" and digest,
    or "random"; `precision`: of the network's pass, and of what is kept; `crop_size`: side in pixels of
    the views, None for texts; `augment`: of a bank of training views, None for the fixed view;
    `normalization`: CLIP's input colours, None where it is not asked.
    """

    kind: Kind
    network: str
    weights: str | None
    origin: str
    precision: Precision = "float32"
    crop_size: int | None = None
    augment: AugmentConfig | None = None
    normalization: Normalization | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """Everything that would change a value; not where the weights lie."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "weights"}
        augment = None if self.augment is None else self.augment.model_dump(mode="json")
        return fields | {"augment": augment, "format": _FORMAT}

    @property
    def key(self) -> str:
        """The digest of `inputs`, and the name of the folder."""
        return digest(self.inputs)


def frame_features(
    backbone: str,
    weights: str | None,
    *,
    precision: Precision,
    normalization: Normalization,
    augment: AugmentConfig | None,
) -> FeatureSpec:
    """CLIP's frame features, (T, D) a view, un-normalised."""
    return FeatureSpec(
        "frame_features", backbone, weights, _clip_origin(backbone, weights), precision,
        find_backbone(backbone).image_size, augment, normalization,
    )  # fmt: skip


def video_map(
    encoder: str,
    weights: str,
    *,
    backbone: str,
    precision: Precision,
    augment: AugmentConfig | None,
    mean: bool = False,
) -> FeatureSpec:
    """The video encoder's last map, (D_z, T/2, h, w) a view, or its `mean`, (D_z, 1, 1, 1).

    Of the backbone it sees the views' size only.
    """
    size = find_backbone(backbone).image_size
    return FeatureSpec(
        "video_mean" if mean else "video_map", encoder, weights, _origin(weights), precision, size, augment
    )


def class_text(backbone: str, weights: str | None) -> FeatureSpec:
    """CLIP's text features, (N, D), un-normalised; always in float32."""
    return FeatureSpec("class_text", backbone, weights, _clip_origin(backbone, weights))


def view_key(spec: FeatureSpec, shard_key: str, view: int) -> str:
    """The digest of everything that the features of one shard's view depend on."""
    return digest({"spec": spec.key, "shard": shard_key, "view": view})


def text_key(spec: FeatureSpec, texts: Sequence[str]) -> str:
    """The digest of everything that the features of a list of texts depend on."""
    return digest({"spec": spec.key, "texts": list(texts)})


def _clip_origin(backbone: str, weights: str | None) -> str:
    return _origin(weights or find_backbone(backbone).pretrained or "")


def _origin(weights: str) -> str:
    path = Path(weights)
    if not path.is_file():
        return weights
    status = path.stat()
    return _file_origin(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _file_origin(path: Path, _modified: int, _size: int) -> str:
    return f"file:{file_digest(path)}"
