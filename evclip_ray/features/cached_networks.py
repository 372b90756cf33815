"""Stand-ins for frozen networks whose outputs are read from disk.

When everything that a method needs of a network is cached, the network itself is not loaded. This saves
seconds of start-up and gigabytes of memory per trial.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from evclip_ray.artifacts import read_ledger
from evclip_ray.features.format import feature_file, map_features
from evclip_ray.features.spec import FeatureSpec, text_key
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.frozen import FrozenNetwork
from evclip_ray.models.swin3d import find_video_encoder
from evclip_ray.models.video_encoder import FrozenVideoEncoder

STAGE = "features"


def network_attributes(network: FrozenCLIP | FrozenVideoEncoder) -> dict[str, Any]:
    """Return the attributes that the ledger stores so that a stand-in can replace the network."""
    if isinstance(network, FrozenVideoEncoder):
        return {name: getattr(network, name) for name in ("dim", "image_size")}
    return {name: getattr(network, name) for name in ("embed_dim", "image_size", "logit_scale", "logit_bias")}


class CLIPWithCachedTexts(FrozenCLIP):
    """A loaded CLIP that reads its class texts from disk: `texts` is their spec in `store`."""

    def __init__(self, clip: FrozenCLIP, store: Path, texts: FeatureSpec | None) -> None:
        # Shares the weights and buffers of `clip`, which other trials of the process go on using unchanged.
        self.__dict__.update(clip.__dict__)
        self._store, self._texts = store, texts

    def encode_text_raw(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """Read the features of N texts: (N, D) float32 on the CPU, un-normalised.

        Raises:
            ArtifactError: these texts are not in the cache.
        """
        if self._texts is None:
            raise _not_loaded(self)
        key = text_key(self._texts, texts)
        # A copy, because the pages of the file are mapped read-only: a write to them would end the process.
        return map_features(feature_file(self._store, self._texts.key, key), key).clone()


class CachedCLIP(CLIPWithCachedTexts):
    """A CLIP that is not loaded: `frames` and `texts` are the specs of its features in `store`."""

    def __init__(self, store: Path, frames: FeatureSpec, texts: FeatureSpec | None) -> None:
        # Not the parents' constructors, which need a loaded model.
        FrozenNetwork.__init__(self, name=frames.network, weights=frames.origin)
        self.activation = frames.activation
        attributes = read_ledger(store / frames.key, STAGE)["network"]
        self.embed_dim, self.image_size = attributes["embed_dim"], attributes["image_size"]
        self.logit_scale, self.logit_bias = attributes["logit_scale"], attributes["logit_bias"]
        self._store, self._texts = store, texts

    def encode_frames(self, images: Tensor) -> NoReturn:
        """Raise RuntimeError: the weights are not loaded."""
        raise _not_loaded(self)


class CachedVideoEncoder(FrozenVideoEncoder):
    """A video encoder that is not loaded: `maps` is the spec of its maps in `store`."""

    def __init__(self, store: Path, maps: FeatureSpec) -> None:
        FrozenNetwork.__init__(self, name=maps.network, weights=maps.origin)
        attributes = read_ledger(store / maps.key, STAGE)["network"]
        self.dim, self.image_size = attributes["dim"], attributes["image_size"]
        # By name: the ledgers of earlier versions do not have it.
        self.stride = find_video_encoder(maps.network).stride

    def forward(self, images: Tensor) -> NoReturn:
        """Raise RuntimeError: the weights are not loaded."""
        raise _not_loaded(self)


def _not_loaded(network: FrozenNetwork) -> RuntimeError:
    return RuntimeError(f"{network.name} is not loaded because its features are read from disk")
