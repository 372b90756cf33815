"""Steps of loading a checkpoint for recognition: its folder, settings, device and class names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted
from evclip_ray.training.build import pick_device
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.version import __version__


def local_checkpoint(source: str | Path) -> Path:
    """Return the checked folder of a checkpoint; a URI is downloaded. See `hub.resolve`.

    Raises:
        ValueError: The source cannot be reached, is not a checkpoint, or a file of it is damaged.
    """
    # Only here: it imports what pushing needs too.
    from evclip_ray.deploy.hub import resolve

    return resolve(source)


def recorded_experiment(checkpoint: Path, record: Mapping[str, Any]) -> ExperimentConfig:
    """Return the settings of the training of a checkpoint.

    Raises:
        ArtifactError: The record is damaged, or of another version or of a package that is not installed.
    """
    missing = [name for name in ("experiment", "classes", "weights") if name not in record]
    if missing:
        raise ArtifactError(f"{checkpoint}: no {', '.join(missing)} in its config.json; the file is damaged")
    try:
        return ExperimentConfig.load(record["experiment"])
    except ConfigError as error:
        written = record.get("provenance", {}).get("versions", {}).get("evclip-ray", "an unknown version")
        raise ArtifactError(
            f"{checkpoint}: its settings do not fit evclip-ray {__version__}: {error}. It was written by "
            f"evclip-ray {written}. Install that version, or the package that provides its method."
        ) from None


def find_device(name: str | None) -> torch.device:
    """Return a device by name; by default the GPU, or else the CPU.

    Raises:
        ConfigError: The device is unknown or this machine has no such device.
    """
    if name is None:
        return pick_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is unknown; give cpu, cuda or cuda:NUMBER")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device {name!r}: PyTorch finds {counted(count, 'GPU')} on this machine; give cpu"
            )
        # With its number, so that the process keeps one copy of the frozen networks.
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def checked_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return class names as a tuple.

    Raises:
        ConfigError: There are none, a name is empty, or a single text was given.
    """
    if isinstance(classes, str):
        raise ConfigError(f"classes must be a list of class names, got the text {classes!r}")
    names = tuple(classes)
    if not names:
        raise ConfigError("classes is empty; give at least one class name")
    empty = next((number for number, name in enumerate(names, 1) if not name.strip()), None)
    if empty is not None:
        raise ConfigError(f"class name {empty} of {len(names)} is empty; remove it")
    return names
