"""Conversion of a published EV-CLIP file: its prompts are copied, its frozen networks are referenced."""

from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import file_digest, provenance
from evclip_ray.config import ConfigError
from evclip_ray.models.released_ev_clip import import_published
from evclip_ray.training.build import build_method, conditions_of, weights_of
from evclip_ray.training.checkpoint import save_checkpoint
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import plan_videos


def import_checkpoint(file: Path, out: Path, overrides: dict[str, Any], *, cache: Path) -> dict[str, Any]:
    """Write a checkpoint folder from a published model file and return its record.

    A published file contains no class names, so they are taken from the manifest in `overrides`. Views and
    colours are the published ones (preset `published`).

    Args:
        file: Published model file.
        out: Folder of the checkpoint.
        overrides: Settings of the experiment, including its manifest.
        cache: Folder of the small world's videos.

    Raises:
        ConfigError: The file is not a published EV-CLIP of plain tensors, no backbone matches its towers,
            or its tensors do not fit the settings.
    """
    file = file.expanduser().resolve()
    published = import_published(file)
    settings: dict[str, Any] = {
        "preset": "published",
        "method": published.method,
        # A model with the context prompt alone has no weights over time, so its file does not tell the number
        # of frames.
        "view": {"num_frames": published.sizes.num_frames or 8},
    }
    if published.backbone is not None:
        settings["backbone"] = {"name": published.backbone, "pretrained": str(file)}
    elif "backbone.name" not in overrides:
        raise ConfigError(
            f"{file}: its CLIP matches no known backbone. Name it, for example --set backbone.name=ViT-B-16"
        )
    experiment = ExperimentConfig.load(settings, overrides)
    # No split is needed: only the names of the classes are read.
    classes = plan_videos(experiment, cache=cache, splits=()).classes
    method = build_method(experiment, classes, device=torch.device("cpu"))
    _load(method, published.state, file)
    record = {
        "experiment": experiment.model_dump(mode="json"),
        "classes": list(classes),
        "num_trainable": method.num_trainable(),
        "weights": weights_of(method.frozen),
        "conditions": conditions_of(method.frozen, experiment, torch.device("cpu")),
        "source": {"file": str(file), "sha256": file_digest(file)},
        "provenance": provenance(),
    }
    save_checkpoint(out, method, record)
    return record


def _load(method: torch.nn.Module, state: dict[str, torch.Tensor], file: Path) -> None:
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ConfigError(f"{file}: the prompts do not fit the settings ({reason})") from None
