"""Reading of weight files: tensors only, never code."""

import functools
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from evclip_ray.artifacts import file_digest
from evclip_ray.config import ConfigError

_LEVELS = ("trunk", "state_dict", "model")
"""Keys under which releases nest their tensors: Omnivore, Dassl and others."""


_SIZES = re.compile(
    r"size mismatch for ([^\s:]+): copying a param with shape torch\.Size\(\[([\d, ]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[([\d, ]*)\]\)"
)
_IN_FOLDERS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Names of the weights in a folder of Hugging Face, best first."""


def find_weight_file(weights: str) -> Path | None:
    """Return the file that `weights` names: itself, or the weights in a folder of Hugging Face; else None."""
    # An empty path is the working folder.
    if not weights:
        return None
    path = Path(weights)
    if path.is_file():
        return path
    candidates = [path / name for name in _IN_FOLDERS] if path.is_dir() else []
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def file_origin(path: Path) -> str:
    """Return the identity of a weight file: its digest, which does not depend on the path."""
    status = path.stat()
    return _file_origin(path, status.st_mtime_ns, status.st_size)


# The time and the size are only keys of the cache, so that a file that is replaced is hashed again.
@functools.lru_cache(maxsize=16)
def _file_origin(path: Path, _modified: int, _size: int) -> str:
    return f"file:{file_digest(path)}"


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


def describe_mismatch(error: Exception) -> str:
    """Return in what tensors differ from those of a network, from PyTorch's error about them.

    Another error is returned as its text, in one line.

    >>> describe_mismatch(RuntimeError('Error in loading state_dict: Missing key(s) in state_dict: "a"'))
    '1 missing (a)'
    """
    text = " ".join(str(error).split())
    if "loading state_dict" not in text:
        return text[:400]
    problems = []
    for kind, title in (("Missing", "missing"), ("Unexpected", "unexpected")):
        part = re.search(rf"{kind} key\(s\) in state_dict: ((?:\"[^\"]*\"(?:, )?)+)", text)
        if names := re.findall(r"\"([^\"]*)\"", part[1]) if part else []:
            problems.append(
                f"{len(names)} {title} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            )
    sizes = _SIZES.findall(text)
    shown = ", ".join(f"{name} must be ({wanted}), got ({got})" for name, got, wanted in sizes[:3])
    if sizes:
        problems.append(f"{len(sizes)} of another size ({shown}{', ...' if len(sizes) > 3 else ''})")
    return "; ".join(problems) or text[:400]


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
