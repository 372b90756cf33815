"""Frozen networks that are not loaded: their sizes, and the texts that they encoded, from disk.

Where all that a method reads of a network is kept, the network itself is not needed: neither its
seconds to load nor its gigabytes.
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
from evclip_ray.models.video_encoder import FrozenVideoEncoder

STAGE = "features"


def facts(network: FrozenCLIP | FrozenVideoEncoder) -> dict[str, Any]:
    """What the ledger says of a network, enough to stand in for it."""
    if isinstance(network, FrozenVideoEncoder):
        return {name: getattr(network, name) for name in ("dim", "image_size")}
    return {name: getattr(network, name) for name in ("embed_dim", "image_size", "logit_scale", "logit_bias")}


class WithRecordedTexts(FrozenCLIP):
    """A loaded CLIP whose class texts are read from disk: `texts` is their spec in `store`."""

    def __init__(self, clip: FrozenCLIP, store: Path, texts: FeatureSpec | None) -> None:
        # The same weights and buffers as `clip`, which stays as it is for other trials.
        self.__dict__.update(clip.__dict__)
        self._store, self._texts = store, texts

    def encode_text_raw(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """N texts -> (N, D) float32 on the CPU, un-normalised, as they were encoded once.

        Raises:
            ArtifactError: these texts were not.
        """
        if self._texts is None:
            raise _not_loaded(self)
        key = text_key(self._texts, texts)
        return map_features(feature_file(self._store, self._texts.key, key), key).clone()


class RecordedCLIP(WithRecordedTexts):
    """A CLIP known by what was kept of it: `frames` and `texts` are its specs in `store`."""

    def __init__(self, store: Path, frames: FeatureSpec, texts: FeatureSpec | None) -> None:
        FrozenNetwork.__init__(self, name=frames.network, weights=frames.origin)
        recorded = read_ledger(store / frames.key, STAGE)["network"]
        self.embed_dim, self.image_size = recorded["embed_dim"], recorded["image_size"]
        self.logit_scale, self.logit_bias = recorded["logit_scale"], recorded["logit_bias"]
        self._store, self._texts = store, texts

    def encode_frames(self, images: Tensor) -> NoReturn:
        """Not without its weights."""
        raise _not_loaded(self)


class RecordedVideoEncoder(FrozenVideoEncoder):
    """A video network known by what was kept of it: `maps` is its spec in `store`."""

    def __init__(self, store: Path, maps: FeatureSpec) -> None:
        FrozenNetwork.__init__(self, name=maps.network, weights=maps.origin)
        recorded = read_ledger(store / maps.key, STAGE)["network"]
        self.dim, self.image_size = recorded["dim"], recorded["image_size"]

    def forward(self, images: Tensor) -> NoReturn:
        """Not without its weights."""
        raise _not_loaded(self)


def _not_loaded(network: FrozenNetwork) -> RuntimeError:
    return RuntimeError(f"{network.name} is not loaded: its features were to be read from disk")
