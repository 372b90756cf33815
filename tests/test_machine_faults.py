"""Errors that are faults of the machine, and the line that describes them."""

import errno
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from evclip_ray.artifacts import ArtifactError, check_writable
from evclip_ray.machine_faults import (
    MachineFault,
    fault_in_text,
    find_fault,
    gpu_fault,
    has_broken_gpu,
    lost_gpu_error,
)


def test_full_disk_names_the_file_and_the_free_space(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "new" / "file"))
    line = find_fault(error).describe(needed="about 3.0 MiB for 2 trials")
    assert line.startswith(f"{tmp_path}/new/file: the disk is full (")
    assert line.endswith("B are free, about 3.0 MiB for 2 trials are needed). Free some space.")


def test_write_to_a_full_device_is_a_fault():
    with pytest.raises(OSError, match="No space left") as info:
        Path("/dev/full").write_text("0")
    fault = find_fault(info.value)
    # `write` does not know the name of its file.
    assert (fault.reason, fault.path) == ("the disk is full", None)
    assert fault.describe() == "the disk is full. Free some space."


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only"),
        (OSError(errno.ESTALE, "Stale file handle"), "the network storage is lost"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the memory is used up"),
        (MemoryError(), "the memory is used up"),
        (OSError("100000 requested and 25600 written"), "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_errors_of_the_machine_are_faults(error, reason):
    assert find_fault(error).reason == reason


@pytest.mark.parametrize("allocate", [lambda: np.zeros(10**15), lambda: torch.zeros(10**15)])
def test_array_that_does_not_fit_in_memory_is_a_fault(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as info:
        allocate()
    assert find_fault(info.value).kind == "memory"


def test_fault_behind_another_error_is_found():
    def read():
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError:
            raise ArtifactError("adapter.safetensors: the file is damaged") from None

    with pytest.raises(ArtifactError) as info:
        read()
    assert find_fault(info.value).reason == "the storage reports an input/output error"


def test_errors_of_a_point_are_no_faults():
    out_of_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    errors = (FileNotFoundError(errno.ENOENT, "No such file"), ValueError("28 heads"), out_of_gpu)
    assert [find_fault(error) for error in errors] == [None, None, None]


def test_memory_monitor_of_ray_is_a_fault():
    text = "1 worker(s) were killed due to the node running low on memory. Memory on the node was 15.2GB"
    assert fault_in_text(text).kind == "memory"


def test_folder_on_a_full_disk_is_no_reason_for_another_one(tmp_path, monkeypatch):
    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evclip_ray.artifacts.tempfile.TemporaryFile", full)
    with pytest.raises(MachineFault, match=r"the disk is full \(.* are free\). Free some space"):
        check_writable(tmp_path, "choose another --out")


class OutOfMemoryError(RuntimeError):
    """Of the name of PyTorch's."""


def test_error_of_a_gpu_is_one_line_with_the_fix():
    error = OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\na total capacity")
    assert gpu_fault(error).startswith(
        "the memory of the GPU is used up (2.00 GiB more are needed). Lower optim"
    )
    line = gpu_fault(RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"))
    assert line == (
        "the GPU cannot be used (CUDA error: device-side assert triggered). Check it with evclip-ray doctor."
    )
    assert gpu_fault(RuntimeError("shapes cannot be multiplied")) is None
    assert [has_broken_gpu(each) for each in (error, ValueError("CUDA error"))] == [False, False]


def test_lost_gpu_is_a_fault_that_names_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    lost = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be")
    assert has_broken_gpu(lost)
    assert find_fault(lost) is None, "a new process may use the GPU"
    # As in the text of Ray's error.
    fault = fault_in_text(f"ray::run_trial()\nRuntimeError: {lost_gpu_error(lost)}\n")
    assert fault.kind == "gpu"
    assert fault.describe() == (
        f"a GPU is lost ({socket.gethostname()}, CUDA_VISIBLE_DEVICES=3: CUDA error: unspecified launch "
        "failure). Restart the machine, or leave it out with CUDA_VISIBLE_DEVICES."
    )
