"""Identity of the weights of a CLIP: their origin, and the activation that they run with."""

import contextlib
import dataclasses
import functools
import logging
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from evclip_ray.config import ConfigError
from evclip_ray.models.activation import Activation, ActivationSetting, stated_activation
from evclip_ray.models.backbones import Backbone, find_backbone, names_activation
from evclip_ray.models.clip_names import is_published
from evclip_ray.models.frozen import RANDOM
from evclip_ray.models.weight_files import file_origin, find_weight_file, read_tensors
from evclip_ray.models.world_weights import WORLD, world_origin

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CLIPWeights:
    """Weights of a CLIP and the activation that they run with.

    Attributes:
        origin: open_clip tag, "file:" or "world:" and a digest, "random", or an unknown text.
        activation: Activation of the MLPs.
        identity: `origin`, followed by the activation in parentheses where it is not the one that versions
            without `backbone.activation` chose. Records and cache keys of those versions stay equal.
        file: Local file of the weights, or None.
        source: Where the activation was found.
    """

    origin: str
    activation: Activation
    identity: str
    file: Path | None
    source: str


def find_weights(
    name: str, pretrained: str | None = None, activation: ActivationSetting = "auto"
) -> CLIPWeights:
    """Identify the weights of a backbone without loading them.

    Unknown weights are not refused here: `load_clip` does it, with the list of known ones.

    Args:
        name: Row of BACKBONES, or an open_clip architecture.
        pretrained: As for `load_clip`.
        activation: As for `load_clip`.

    Raises:
        ConfigError: The file does not state its activation, or the architecture has another one only.
    """
    backbone = find_backbone(name)
    weights = pretrained or backbone.pretrained or ""
    file = None if weights in (RANDOM, *backbone.tags) else find_weight_file(weights)
    chosen, source = _activation(name, backbone, weights, file, activation)
    origin = weights if file is None else file_origin(file)
    if backbone.is_world and weights == WORLD:
        origin = world_origin(name)
    is_usual = chosen == backbone.activation_of(weights)
    return CLIPWeights(origin, chosen, origin if is_usual else f"{origin} ({chosen})", file, source)


def _activation(
    name: str, backbone: Backbone, weights: str, file: Path | None, setting: ActivationSetting
) -> tuple[Activation, str]:
    usual = backbone.activation_of(weights)
    if not backbone.has_both_activations:
        if setting not in ("auto", usual):
            raise ConfigError(
                f"backbone {name}: open_clip has it with {usual} only, got backbone.activation={setting}; "
                "set it to auto"
            )
        return usual, "the only one of this architecture"
    stated: tuple[Activation, str] | None = usual, f"the weights {weights!r}"
    if file is not None:
        stated = _of_file(file)
        if names_activation(name):
            if stated is not None and stated[0] != usual:
                log.warning("CLIP %s: %s states %s, but the name is used", name, stated[1], stated[0])
            stated = usual, f"the name {name}"
    if setting != "auto":
        if stated is not None and stated[0] != setting:
            log.warning(
                "CLIP %s: backbone.activation is %s, but %s states %s", name, setting, stated[1], stated[0]
            )
        return setting, "backbone.activation"
    if stated is None:
        raise ConfigError(
            f"{file}: does not state the activation that it was trained with, and {name} exists with both. "
            "Set backbone.activation to gelu (LAION, DataComp) or to quickgelu (OpenAI, MetaCLIP, DFN), or "
            f'write {{"activation": "gelu"}} or {{"activation": "quickgelu"}} to {file}.json'
        )
    return stated


def _of_file(file: Path) -> tuple[Activation, str] | None:
    stated = stated_activation(file)
    if stated is None:
        status = file.stat()
        return ("quickgelu", "its format") if _is_openais(file, status.st_mtime_ns, status.st_size) else None
    return stated


# The time and the size are only keys of the cache: features are planned many times with one file.
@functools.lru_cache(maxsize=16)
def _is_openais(path: Path, _modified: int, _size: int) -> bool:
    """Return whether a file is an archive of OpenAI, or a published EV-CLIP, whose towers are OpenAI's."""
    if path.suffix == ".safetensors":
        with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as opened:
            return is_published(opened.keys())
        return False
    if is_script_archive(path):
        return True
    # A file without tensors is refused when it is loaded.
    with contextlib.suppress(ConfigError):
        return is_published(read_tensors(path))
    return False


def is_script_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the form of OpenAI's weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        # torch.save writes zip files too; only a TorchScript archive contains code.
        return any("/code/" in entry for entry in archive.namelist())
