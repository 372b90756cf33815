"""Presence of the weights of an experiment on this machine, without loading or downloading them."""

import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import open_clip
import torch
from torchvision.models import get_model_weights

from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.downloads import HUB_FILES, check_hub, check_url, no_download, repository_of
from evclip_ray.models.frozen import RANDOM
from evclip_ray.models.video_encoder import VIDEO_ENCODERS
from evclip_ray.models.weight_files import find_weight_file
from evclip_ray.models.world_weights import WORLD


@dataclasses.dataclass(frozen=True)
class WeightStatus:
    """Weights of one network.

    Attributes:
        origin: Tag or file, as set or by default.
        file: Local file, None if there is none or none is needed.
        host: Host from which missing weights are downloaded, None if nothing is missing or known.
        is_present: Whether the weights can be loaded without a network.
    """

    origin: str
    file: Path | None
    host: str | None
    is_present: bool


def clip_weight_status(name: str, pretrained: str | None) -> WeightStatus:
    """Return the status of the weights of a backbone.

    Args:
        name: Row of BACKBONES, or an open_clip architecture.
        pretrained: As for `load_clip`.
    """
    backbone = find_backbone(name)
    origin = pretrained or backbone.pretrained or ""
    if origin == RANDOM or (backbone.is_world and origin == WORLD):
        return WeightStatus(origin, None, None, True)
    if origin not in backbone.tags:
        return _local(origin)
    tag = open_clip.get_pretrained_cfg(backbone.open_clip, origin)
    repository, file = repository_of(tag)
    for candidate in (file,) if file else HUB_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repository, candidate) if repository else None
        if isinstance(cached, str):
            return WeightStatus(origin, Path(cached), None, True)
    endpoint = huggingface_hub.constants.ENDPOINT if repository else tag.get("url", "")
    return WeightStatus(origin, None, urlsplit(endpoint).hostname, False)


def encoder_weight_status(name: str, weights: str) -> WeightStatus:
    """Return the status of the weights of a video encoder.

    Args:
        name: Row of VIDEO_ENCODERS.
        weights: As for `load_video_encoder`.
    """
    row = VIDEO_ENCODERS[name]
    if weights in (RANDOM, WORLD):
        return WeightStatus(weights, None, None, True)
    if weights not in row.tags:
        return _local(weights)
    url = get_model_weights(name)[row.tags[weights]].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if file.is_file():
        return WeightStatus(weights, file, None, True)
    return WeightStatus(weights, None, urlsplit(url).hostname, False)


def check_downloads(backbone: str, pretrained: str | None, encoder: str | None, weights: str) -> None:
    """Check that weights that are not on this machine can be downloaded, without downloading them.

    Args:
        backbone: Row of BACKBONES, or an open_clip architecture.
        pretrained: As for `load_clip`.
        encoder: Row of VIDEO_ENCODERS, None without a video encoder.
        weights: As for `load_video_encoder`.

    Raises:
        ConfigError: The host of one cannot be reached.
    """
    status, row = clip_weight_status(backbone, pretrained), find_backbone(backbone)
    tag = open_clip.get_pretrained_cfg(row.open_clip, status.origin) if status.host else {}
    repository, file = repository_of(tag)
    try:
        if repository:
            check_hub(repository, file)
        elif tag:
            check_url(tag["url"])
    except OSError as error:
        raise no_download(f"backbone {backbone}", status.origin, error) from None
    if encoder is not None and encoder_weight_status(encoder, weights).host:
        url = get_model_weights(encoder)[VIDEO_ENCODERS[encoder].tags[weights]].url
        try:
            check_url(url)
        except OSError as error:
            raise no_download(f"video encoder {encoder}", weights, f"{url}: {error}") from None


def _local(origin: str) -> WeightStatus:
    file = find_weight_file(origin)
    return WeightStatus(origin, file, None, file is not None)
