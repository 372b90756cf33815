"""Reading of weight files: tensors only, never code."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from evclip_ray.config import ConfigError

_LEVELS = ("trunk", "state_dict", "model")
"""Keys under which releases nest their tensors: Omnivore, Dassl and others."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or of a state dict saved with `torch.save`, on the CPU.

    Raises:
        ConfigError: The file is missing or unreadable, or contains other objects or no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        # weights_only: the unpickler accepts tensors and plain containers alone, so a file cannot run code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a safetensors file or a state dict of plain tensors "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    return _tensors(content, path)


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    for level in _LEVELS:
        if isinstance(content, Mapping) and isinstance(content.get(level), Mapping):
            content = content[level]
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: must contain a state dict, but contains a {type(content).__name__}")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigError(f"{path}: must contain a state dict, but contains no tensors")
    return {key.removeprefix("module."): value for key, value in tensors.items()}
