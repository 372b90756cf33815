"""Faults of the machine: a full disk, too little memory, lost network storage, a lost GPU.

They pause the work and are no fault of an experiment. The same command continues once the machine works
again. `find_fault` alone decides which errors are faults.
"""

import dataclasses
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from evclip_ray.formatting import binary_size

_SPACE, _MOUNT = "Free some space.", "Check the storage and its mount."
_ERRNOS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", _SPACE),
    errno.EFBIG: ("the limit of the file size is reached", "Raise it with ulimit -f."),
    errno.EROFS: ("the disk is read-only", _MOUNT),
    errno.EIO: ("the storage reports an input/output error", _MOUNT),
    errno.ESTALE: ("the network storage is lost", _MOUNT),
    errno.ENOTCONN: ("the network storage is lost", _MOUNT),
    errno.EHOSTDOWN: ("the network storage is lost", _MOUNT),
    errno.EREMOTEIO: ("the network storage is lost", _MOUNT),
    errno.EMFILE: ("too many files are open", "Raise the limit with ulimit -n."),
    errno.ENFILE: ("too many files are open on this machine", "Close other programs."),
}
"""Errors of the system -> reason and fix. ENOMEM is a fault too, see `_MEMORY`."""
_MEMORY = ("the memory is used up", "Run fewer trials at once with a larger --memory-per-worker.")
# Libraries in Rust and C++ raise errors without a number: safetensors "(os error 28)", Arrow "[errno 28]".
_NUMBER = re.compile(r"(?:os error|errno) (\d+)\b", re.IGNORECASE)
# NumPy does not say why it wrote less than requested. The usual reason is a full disk.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|Cannot allocate memory"
    r"|node running low on memory"
)
"""PyTorch, the system, and Ray about a process that its memory monitor ended."""


_BROKEN_GPU = ("CUDA error", "CUDA driver", "No CUDA GPUs", "cuDNN error")
_LOST_GPU = re.compile(r"a GPU is lost \(.*\)")
"""Of `lost_gpu_error`, also in the text of Ray's error about its process."""


class MachineFault(OSError):
    """Fault of the machine that paused the work. Its text names the fault, the free space and the fix."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Fault of the machine.

    Attributes:
        reason: What is wrong: "the disk is full".
        fix: What the user can do, as a sentence.
        kind: What is used up or lost.
        path: File that was read or written; None if the error does not name it.
    """

    reason: str
    fix: str
    kind: Literal["disk", "memory", "gpu"]
    path: str | None = None

    @classmethod
    def of_number(cls, number: int, path: str | None = None) -> Self | None:
        """Return the fault of a system error, or None if it is not one of the machine."""
        if number == errno.ENOMEM:
            return cls(*_MEMORY, "memory")
        return cls(*_ERRNOS[number], "disk", path) if number in _ERRNOS else None

    def describe(self, folder: Path | None = None, *, needed: str = "") -> str:
        """Return one line: the file or disk, the reason, what is free and needed, and the fix.

        Args:
            folder: Folder on the disk in question, if the fault names no file; None if it is unknown.
            needed: What the rest of the work needs, such as "about 3 MiB for 2 trials".
        """
        if self.kind == "gpu":
            return f"{self.reason}. {self.fix}"
        free, where = (_free_memory(), "") if self.kind == "memory" else self._free_space(folder)
        amounts = [] if free is None else [f"{binary_size(free)} are free"]
        amounts += [f"{needed} are needed"] if needed else []
        listed = f" ({', '.join(amounts)})" if amounts else ""
        return f"{where}{self.reason}{listed}. {self.fix}"

    def _free_space(self, folder: Path | None) -> tuple[int | None, str]:
        path = Path(self.path) if self.path else folder
        if path is None:
            return None, ""
        try:
            return shutil.disk_usage(_existing(path)).free, f"{path}: "
        except OSError:  # lost storage has no free space
            return None, f"{path}: "


def find_fault(error: BaseException) -> Fault | None:
    """Return the fault of the machine behind an error, or None if there is none.

    An error that was raised while a fault was handled counts too: a checkpoint on lost storage is not
    damaged.
    """
    return next((fault for each in _chain(error) if (fault := _fault_of(each)) is not None), None)


def _fault_of(error: BaseException) -> Fault | None:
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename if isinstance(error.filename, str) else None
        return Fault.of_number(error.errno, path)
    if isinstance(error, MemoryError):
        return Fault.of_number(errno.ENOMEM)
    if isinstance(error, OSError) and _SHORT_WRITE.search(str(error)):
        return Fault.of_number(errno.ENOSPC)
    return fault_in_text(str(error))


def fault_in_text(text: str) -> Fault | None:
    """Return the fault of the machine that an error message describes, or None.

    A GPU without memory is none: a point that is too large for it is so on every attempt.
    """
    if _NO_MEMORY.search(text):
        return Fault.of_number(errno.ENOMEM)
    if lost := _LOST_GPU.search(text):
        return Fault(lost[0], "Restart the machine, or leave it out with CUDA_VISIBLE_DEVICES.", "gpu")
    number = _NUMBER.search(text)
    return None if number is None else Fault.of_number(int(number[1]))


def gpu_fault(error: BaseException) -> str | None:
    """Return one line for an error of a GPU, or None. It is no fault of the machine: it occurs again."""
    text = _first_line(error)
    # By its name, because this module does not import PyTorch.
    if type(error).__name__ == "OutOfMemoryError":
        needed = re.search(r"Tried to allocate ([\d.]+ \w+)", text)
        size = re.search(r"total capacity of ([\d.]+ \w+)", str(error))
        amount = f" ({needed[1]} more are needed{f', it has {size[1]}' if size else ''})" if needed else ""
        return (
            f"the memory of the GPU is used up{amount}. Lower optim.batch_size (optim.eval_batch_size for an "
            "evaluation), set backbone.activation_checkpointing=true, or end other programs on the GPU."
        )
    if has_broken_gpu(error):
        return f"the GPU cannot be used ({text}). Check it with evclip-ray doctor."
    return None


def has_broken_gpu(error: BaseException) -> bool:
    """Return whether this process cannot use its GPU any more after an error. A new process may."""
    # The driver ends the context of a process whose kernel fails. `torch.AcceleratorError` is one of these.
    is_runtime_error = isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError"
    return is_runtime_error and str(error).startswith(_BROKEN_GPU)


def lost_gpu_error(error: BaseException) -> RuntimeError:
    """Return the error to raise if new processes cannot use the GPU either. `find_fault` knows it.

    Args:
        error: Error of the GPU.
    """
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    name = f"{socket.gethostname()}, " + (f"CUDA_VISIBLE_DEVICES={devices}: " if devices else "")
    return RuntimeError(f"a GPU is lost ({name}{_first_line(error)})")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes and the errors that were handled when it was raised."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        # Contexts can form a cycle.
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        # Ray keeps the error of another process in `cause`.
        remote = getattr(each, "cause", None)
        waiting += [each.__cause__, remote if isinstance(remote, BaseException) else None, each.__context__]


def _existing(path: Path) -> Path:
    """Return the path or its nearest parent that exists."""
    return next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # another system than Linux
        return None
    kib = dict(line.split(":", 1) for line in lines).get("MemAvailable", "")
    return int(kib.split()[0]) * 1024 if kib else None
