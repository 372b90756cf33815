"""Format of a feature file: an uncompressed Arrow IPC file with one tensor column, read by memory mapping.

Its metadata hold its key and the digest of its values. The same inputs give the same bytes. Two studies may
therefore write one file at the same time: each renames a complete file into place.
"""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evclip_ray.artifacts import ArtifactError, replacing
from evclip_ray.data.shards.memory_map import MemoryMap

log = logging.getLogger(__name__)

SUFFIX = ".arrow"
_KEY, _DIGEST, _DTYPE = b"evclip_ray.key", b"evclip_ray.digest", b"evclip_ray.dtype"
# Neither NumPy nor Arrow has bfloat16, so its bits are stored as 16-bit integers.
_CARRIERS = {"float32": torch.float32, "bfloat16": torch.int16}


def feature_file(store: Path, spec_key: str, key: str) -> Path:
    """Return the path of the features with `key`, which is also the name of the file."""
    return store / spec_key / f"{key}{SUFFIX}"


def write_features(path: Path, values: Tensor, key: str) -> None:
    """Write `values` (M, ...), float32 or bfloat16, to a temporary file and rename it to `path`.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    dtype = str(values.dtype).removeprefix("torch.")
    stored = bits(values.detach().cpu().contiguous())
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), int(np.prod(stored.shape[1:])))
    tensor = pa.fixed_shape_tensor(flat.type.value_type, stored.shape[1:])
    metadata = {_KEY: key.encode(), _DIGEST: _digest(stored).encode(), _DTYPE: dtype.encode()}
    schema = pa.schema({"values": tensor}, metadata=metadata)
    batch = pa.record_batch([pa.ExtensionArray.from_storage(tensor, flat)], schema=schema)
    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        writer.write_batch(batch)


def bits(values: Tensor) -> NDArray[np.generic]:
    """Return the memory of a CPU tensor as the array that is stored, without a copy."""
    carrier = _CARRIERS[str(values.dtype).removeprefix("torch.")]
    stored: NDArray[np.generic] = values.view(carrier).numpy()
    return stored


class MappedFeatures(NamedTuple):
    """Memory-mapped features.

    `values`: (M, ...), the pages of `file` itself, so never write to them; `rows`: the `bits` of the M rows.
    """

    values: Tensor
    rows: tuple[NDArray[np.generic], ...]
    file: MemoryMap

    def prefetch(self, row: int) -> None:
        """Start reading a row from disk."""
        self.file.prefetch(self.rows[row].ctypes.data, self.rows[row].nbytes)

    def release(self, row: int) -> None:
        """Drop a row from this process's memory."""
        self.file.release(self.rows[row].ctypes.data, self.rows[row].nbytes)


def map_file(path: Path, key: str) -> MappedFeatures:
    """Map the features of a file into memory.

    Raises:
        ArtifactError: the file is missing, truncated, or has another key.
    """
    # The digest is not compared here, as that reads the whole file. `is_sound` does so before a study starts.
    content = _open(path, key)
    with _ignore_read_only_warning():
        values = torch.from_numpy(content.values).view(getattr(torch, content.dtype))
    # Split into rows once: indexing a tensor costs more than copying a small row, in every step.
    return MappedFeatures(values, tuple(content.values), content.file)


def map_features(path: Path, key: str) -> Tensor:
    """Return the features of a file, (M, ...), as the file's own pages: see `map_file`."""
    return map_file(path, key).values


def is_sound(path: Path, key: str) -> bool:
    """Return whether the file is complete and holds exactly the values that were written with `key`."""
    try:
        content = _open(path, key)
    except ArtifactError as problem:
        if path.exists():
            log.warning("%s; computing it again", problem)
        return False
    if content.digest != _digest(content.values):
        log.warning("%s: its values differ from those that were written; computing it again", path)
        return False
    return True


class _Content(NamedTuple):
    digest: str
    values: NDArray[np.generic]
    dtype: str
    file: MemoryMap


def _open(path: Path, key: str) -> _Content:
    try:
        file = MemoryMap(path)
        metadata = file.reader.schema.metadata or {}
        if metadata.get(_KEY) != key.encode():
            raise ArtifactError(f"{path}: holds features with another key; prepare the features again")
        batch = file.reader.get_batch(0)
        # Checks lengths and types only, not values, so it reads no pages of the tensor.
        batch.validate()
        values = cast(NDArray[np.generic], batch.column(0).to_numpy_ndarray())
        dtype = metadata[_DTYPE].decode()
        if str(values.dtype) != str(_CARRIERS[dtype]).removeprefix("torch."):
            raise ArtifactError(
                f"{path}: holds {values.dtype} values for {dtype}; prepare the features again"
            )
        return _Content(metadata[_DIGEST].decode(), values, dtype, file)
    except ArtifactError:
        raise
    except (OSError, ValueError, pa.ArrowException, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); prepare the features again") from None


def _digest(values: NDArray[np.generic]) -> str:
    # Shape and type are part of the digest, because the same bytes have other values in another shape.
    digest = hashlib.sha256(str((values.shape, str(values.dtype))).encode())
    # A memoryview of zero size cannot be cast.
    digest.update(values.data.cast("B") if values.size else b"")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _ignore_read_only_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        # Torch has no read-only tensors and warns about every mapped file.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield
