"""Licences of the frozen networks behind a checkpoint, from the origins that it records.

Nothing here is legal advice. Where a publisher states the licence, the text refers to the publisher.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip

from evclip_ray.config import ConfigError
from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.frozen import RANDOM
from evclip_ray.models.weight_files import file_origin, read_tensors
from evclip_ray.models.world_weights import WORLD

NONCOMMERCIAL = "cc-by-nc-4.0"
"""Identifier of the licence of Omnivore's weights."""

_MIT = "MIT, part of evclip-ray"
_NONE = "none: random weights"
_TORCHVISION_PREFIX = "features."


@dataclasses.dataclass(frozen=True)
class WeightLicence:
    """Licence of the weights of one frozen network.

    Attributes:
        part: "CLIP" or "video network".
        network: Name of the network.
        origin: Tag, or digest of a file, as recorded.
        licence: The licence in words.
        is_noncommercial: Whether it forbids commercial use.
        model_id: Repository of the weights on Hugging Face; None if there is none.
    """

    part: str
    network: str
    origin: str
    licence: str
    is_noncommercial: bool = False
    model_id: str | None = None


def weight_licences(experiment: Mapping[str, Any], weights: Mapping[str, str]) -> list[WeightLicence]:
    """Return the licence of each frozen network of a checkpoint.

    Args:
        experiment: Settings of the run, as recorded.
        weights: Origin by network, as recorded.
    """
    licences = [_clip(experiment["backbone"]["name"], weights["clip"])]
    encoder = experiment["method"].get("video_encoder")
    if "video_encoder" in weights and encoder:
        licences.append(_video_network(encoder["name"], weights["video_encoder"], encoder.get("weights")))
    return licences


def _clip(network: str, recorded: str) -> WeightLicence:
    # An unusual activation follows the origin in parentheses.
    origin = recorded.split(" ")[0]
    known = WeightLicence("CLIP", network, recorded, "as stated by the publisher of the file")
    if origin == RANDOM:
        return dataclasses.replace(known, licence=_NONE)
    if origin.startswith(f"{WORLD}:"):
        return dataclasses.replace(known, licence=_MIT)
    if origin.startswith("file:"):
        return known
    model_id = _model_id(network, origin)
    if origin == "openai":
        licence = "MIT (OpenAI's CLIP); see OpenAI's model card for the intended use of the weights"
    else:
        licence = "as stated by the publisher of these open_clip weights"
    return dataclasses.replace(known, licence=licence, model_id=model_id)


def _model_id(network: str, tag: str) -> str | None:
    try:
        entry = open_clip.get_pretrained_cfg(find_backbone(network).open_clip, tag) or {}
    except ConfigError:  # an architecture that this version of open_clip lacks
        return None
    model_id: str = "/".join((entry.get("hf_hub") or "").split("/")[:2])
    return model_id or None


def _video_network(network: str, origin: str, weights: str | None) -> WeightLicence:
    known = WeightLicence(
        "video network", network, origin, "as stated by torchvision; trained on Kinetics, with its terms"
    )
    if origin == RANDOM:
        return dataclasses.replace(known, licence=_NONE)
    if origin.startswith(f"{WORLD}:"):
        return dataclasses.replace(known, licence=_MIT)
    if not origin.startswith("file:"):
        return known
    is_torchvision = _has_torchvision_names(Path(weights or ""), origin)
    if is_torchvision:
        return dataclasses.replace(known, licence="as stated by the publisher of the file")
    reason = "Omnivore" if is_torchvision is False else "a file, taken for Omnivore's weights"
    licence = f"CC-BY-NC 4.0: no commercial use ({reason})"
    return dataclasses.replace(known, licence=licence, is_noncommercial=True)


def _has_torchvision_names(file: Path, origin: str) -> bool | None:
    """Return whether a file of weights has torchvision's names; None if it is not here or has changed."""
    try:
        if not file.is_file() or file_origin(file) != origin:
            return None
        names = read_tensors(file)
    except (OSError, ConfigError):
        return None
    return any(name.startswith(_TORCHVISION_PREFIX) for name in names)
