"""One feature file: an uncompressed Arrow IPC file of one tensor column, read by mapping it into memory.

Its metadata hold its key and the digest of its values. The same inputs give the same bytes, so two
studies that write one file at once do each other no harm: each renames a whole one into place.
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
from evclip_ray.data.shards.memory_map import MappedFile

log = logging.getLogger(__name__)

SUFFIX = ".arrow"
_KEY, _DIGEST, _DTYPE = b"evclip_ray.key", b"evclip_ray.digest", b"evclip_ray.dtype"
# Neither NumPy nor Arrow has bfloat16: its bits travel as integers.
_CARRIERS = {"float32": torch.float32, "bfloat16": torch.int16}


def feature_file(store: Path, spec_key: str, key: str) -> Path:
    """Where the features under `key` are: a file's name is its key."""
    return store / spec_key / f"{key}{SUFFIX}"


def write_features(path: Path, values: Tensor, key: str) -> None:
    """Write `values` (M, ...), float32 or bfloat16, whole or not at all.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
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
    """The memory of a tensor on the CPU, as it travels."""
    carrier = _CARRIERS[str(values.dtype).removeprefix("torch.")]
    found: NDArray[np.generic] = values.view(carrier).numpy()
    return found


class Mapped(NamedTuple):
    """`values` (M, ...), the pages of `file`, not a copy: never write to them. `rows`: the M rows' `bits`."""

    values: Tensor
    rows: tuple[NDArray[np.generic], ...]
    file: MappedFile

    def ahead(self, row: int) -> None:
        """Begin to read a row from disk."""
        self.file.ahead(self.rows[row].ctypes.data, self.rows[row].nbytes)

    def done(self, row: int) -> None:
        """Let a row go from this process's memory."""
        self.file.done(self.rows[row].ctypes.data, self.rows[row].nbytes)


def map_file(path: Path, key: str) -> Mapped:
    """The features in a file, and the file, to be told what is read next.

    Raises:
        ArtifactError: missing, cut short, or of another key.
    """
    found = _open(path, key)
    with _read_only_is_meant():
        values = torch.from_numpy(found.values).view(getattr(torch, found.dtype))
    # Taken apart once: a row of a tensor costs more than the copy of a small one, in every step.
    return Mapped(values, tuple(found.values), found.file)


def map_features(path: Path, key: str) -> Tensor:
    """(M, ...), the file's own pages: see `map_file`."""
    return map_file(path, key).values


def is_sound(path: Path, key: str) -> bool:
    """Whether the file is there, whole, and holds the very values that were written under `key`."""
    try:
        found = _open(path, key)
    except ArtifactError as problem:
        if path.exists():
            log.warning("%s; it is made again", problem)
        return False
    if found.digest != _digest(found.values):
        log.warning("%s: its values are not those that were written; it is made again", path)
        return False
    return True


class _Found(NamedTuple):
    digest: str
    values: NDArray[np.generic]
    dtype: str
    file: MappedFile


def _open(path: Path, key: str) -> _Found:
    try:
        file = MappedFile(path)
        metadata = file.reader.schema.metadata or {}
        if metadata.get(_KEY) != key.encode():
            raise ArtifactError(f"{path}: holds features of another key; prepare the features again")
        batch = file.reader.get_batch(0)
        batch.validate()
        values = cast(NDArray[np.generic], batch.column(0).to_numpy_ndarray())
        dtype = metadata[_DTYPE].decode()
        if str(values.dtype) != str(_CARRIERS[dtype]).removeprefix("torch."):
            raise ArtifactError(f"{path}: holds {values.dtype}, not the bits of {dtype}")
        return _Found(metadata[_DIGEST].decode(), values, dtype, file)
    except ArtifactError:
        raise
    except (OSError, ValueError, pa.ArrowException, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); prepare the features again") from None


def _digest(values: NDArray[np.generic]) -> str:
    found = hashlib.sha256(str((values.shape, str(values.dtype))).encode())
    found.update(values.data.cast("B") if values.size else b"")
    return found.hexdigest()[:16]


@contextlib.contextmanager
def _read_only_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        # Torch has no read-only tensors, and says so of every mapped file.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        yield
