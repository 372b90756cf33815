"""Energy, where the card tells: NVML's counter of all that a GPU has taken."""

import importlib
from typing import Any

import torch


class EnergyMeter:
    """Joules that a device takes. `reason`: why it cannot be told, or None."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self.reason: str | None = "a CPU does not tell"
        if device.type == "cuda":
            self.reason = self._open(device)

    def _open(self, device: torch.device) -> str | None:
        try:
            nvml = importlib.import_module("pynvml")
        except ModuleNotFoundError:
            return 'NVML is not installed; pip install "evclip-ray[energy]"'
        try:
            nvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except nvml.NVMLError as error:
            return f"the card does not tell ({error})"
        self._nvml = nvml
        return None

    def joules(self) -> float | None:
        """All that the device has taken since its driver was loaded; None where it cannot be told."""
        if self._nvml is None:
            return None
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
