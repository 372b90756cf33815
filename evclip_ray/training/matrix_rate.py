"""Measured rate of large matrix products of a device, which bounds the speed of a training step.

The rate is measured once for a device, number format, number of threads and version of torch, and stored in
the cache folder: `matrix_rates/KEY.json`. A rate that was measured while other work kept the device busy is
too low. Its file can be deleted to measure again.
"""

import contextlib
import dataclasses
import logging
import os
import platform
import time
from pathlib import Path

import torch
from filelock import Timeout

from evclip_ray.artifacts import ArtifactError, digest, read_json, write_json
from evclip_ray.formatting import counted
from evclip_ray.locking import holding

log = logging.getLogger(__name__)

FOLDER = "matrix_rates"
_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (2048, 4096, 8192)}
"""Sides of the multiplied matrices. A larger one fills the device better and takes longer."""
_REPEATS = {"cpu": 5, "cuda": 20}
_SECONDS = 1.0
"""No product starts that would end later than this."""
_LONGEST_WAIT_SECONDS = 5.0
"""Wait for another process that measures the same rate."""
_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class MatrixRate:
    """Rate of matrix products.

    Attributes:
        flop_per_second: Floating-point operations per second, 2 per multiply-accumulate.
        device: Name of the GPU or the processor.
        format: Number format, such as "bfloat16".
        threads: Threads that compute on a CPU; None on a GPU.
    """

    flop_per_second: float
    device: str
    format: str
    threads: int | None = None

    def __str__(self) -> str:
        threads = "" if self.threads is None else f" with {counted(self.threads, 'thread')}"
        return f"{flop_rate(self.flop_per_second)} in {self.format} on {self.device}{threads}"


def flop_rate(flop_per_second: float) -> str:
    """Return a rate as text.

    >>> flop_rate(7.7e14), flop_rate(9.53e10)
    ('770 TFLOP/s', '95.3 GFLOP/s')
    """
    factor, unit = (1e12, "TFLOP/s") if flop_per_second >= 1e12 else (1e9, "GFLOP/s")
    return f"{flop_per_second / factor:.3g} {unit}"


def matrix_rate(device: torch.device, dtype: torch.dtype, cache: Path | None) -> MatrixRate | None:
    """Return the rate of this process on a device; measure it if it is not in the cache folder.

    Args:
        device: Device of the products.
        dtype: Number format.
        cache: Cache folder. None stores nothing, as does a folder that cannot be written to.

    Returns:
        The rate, or None if another process has been measuring it for some seconds.
    """
    rate = _conditions(device, dtype)
    if cache is None:
        return _measured(rate, device, dtype)
    path = cache / FOLDER / f"{_key(rate)}.json"
    lock, deadline = path.with_name(f".{path.name}.lock"), time.monotonic() + _LONGEST_WAIT_SECONDS
    while (stored := _read(path, rate)) is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The processes of a study start together. Those that wait do not compute, which would lower the
            # rate.
            with holding(lock, "", wait=False):
                stored = _read(path, rate) or _measured(rate, device, dtype)
                write_json(path, dataclasses.asdict(stored) | {"torch": torch.__version__})
                return stored
        except Timeout:
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)
        except OSError as problem:
            log.info("the matrix rate of the device cannot be stored: %s", problem)
            return _measured(rate, device, dtype)
    return stored


def measure_matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = _SECONDS) -> float:
    """Multiply square matrices of growing size and return the highest rate, in FLOP per second.

    Args:
        device: Device of the products.
        dtype: Number format.
        seconds: No product starts that would end later.

    Raises:
        torch.OutOfMemoryError: Not even the smallest matrices fit.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    best, taken, deadline = 0.0, 0.0, time.perf_counter() + seconds
    try:
        for size in _SIZES[kind]:
            # Eight times the operations of the last size.
            if best and time.perf_counter() + 8 * taken > deadline:
                break
            left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
            product = torch.empty_like(left)
            for _ in range(_REPEATS[kind]):
                taken = _product_seconds(left, right, product, device)
                best = max(best, 2 * size**3 / taken)
                if time.perf_counter() + taken > deadline:
                    break
    except torch.OutOfMemoryError:
        # A GPU that other trials share may lack memory for the largest size.
        if not best:
            raise
    if kind == "cuda":
        left = right = product = torch.empty(0)
        # Other trials share the memory of the GPU, and the peak of a trial is measured.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return best


def _product_seconds(
    left: torch.Tensor, right: torch.Tensor, product: torch.Tensor, device: torch.device
) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    torch.mm(left, right, out=product)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _measured(rate: MatrixRate, device: torch.device, dtype: torch.dtype) -> MatrixRate:
    return dataclasses.replace(rate, flop_per_second=measure_matrix_rate(device, dtype))


def _conditions(device: torch.device, dtype: torch.dtype) -> MatrixRate:
    """Return the conditions of a measurement, with a rate of 0."""
    name = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        return MatrixRate(0.0, torch.cuda.get_device_name(device), name)
    return MatrixRate(0.0, _processor(), name, torch.get_num_threads())


def _processor() -> str:
    """Return the name of the processor, with its number of CPUs."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() == "model name":
                return f"{value.strip()} ({counted(os.cpu_count() or 1, 'CPU')})"
    return f"{platform.machine()} ({counted(os.cpu_count() or 1, 'CPU')})"


def _key(rate: MatrixRate) -> str:
    conditions = {**dataclasses.asdict(rate), "torch": torch.__version__}
    # A user may allow TF32 for products of float32 matrices.
    return digest({**conditions, "float32": torch.get_float32_matmul_precision()})


def _read(path: Path, conditions: MatrixRate) -> MatrixRate | None:
    """Return the stored rate; None if there is none or its file is damaged."""
    if not path.is_file():
        return None
    try:
        return dataclasses.replace(conditions, flop_per_second=float(read_json(path)["flop_per_second"]))
    except (ArtifactError, KeyError, TypeError, ValueError):
        return None
