"""Energy counter of NVIDIA GPUs, through NVML."""

import importlib
from typing import Any

import torch


class EnergyMeter:
    """Energy counter of a device. `reason`: why it is not available, or None."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self.reason: str | None = "a CPU has no energy counter"
        if device.type == "cuda":
            self.reason = self._open(device)

    def _open(self, device: torch.device) -> str | None:
        try:
            nvml = importlib.import_module("pynvml")
        except ModuleNotFoundError:
            return 'NVML is not installed; pip install "evclip-ray[energy]"'
        try:
            nvml.nvmlInit()
            # The UUID identifies the card: NVML ignores CUDA_VISIBLE_DEVICES, so that its indices differ from
            # torch's.
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            # Cards before Volta have no counter: the first read raises the error here and not in a
            # measurement.
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except nvml.NVMLError as error:
            return f"the card has no energy counter ({error})"
        self._nvml = nvml
        return None

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded, or None if there is no counter."""
        if self._nvml is None:
            return None
        # NVML counts in millijoules.
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
