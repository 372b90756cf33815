"""Counter of the operations for which Python would have to wait for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    # The shapes of their results follow from values.
    torch.ops.aten.nonzero.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.masked_select.default,
}


class HostReads(TorchDispatchMode):
    """Counter of reads of a tensor's value by Python, inside its block: values, and copies to the CPU.

    It counts on a CPU, where a copy is no operation, so it counts the calls of `Tensor.cpu`.
    """

    count = 0

    def __enter__(self):
        self._cpu = torch.Tensor.cpu
        torch.Tensor.cpu = self._counted_cpu()
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.cpu = self._cpu
        return super().__exit__(*error)

    def _counted_cpu(self):
        def cpu(tensor, *args, **kwargs):
            self.count += 1
            return self._cpu(tensor, *args, **kwargs)

        return cpu

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        has_mask = function is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += function in _WAITING or has_mask
        return function(*args, **(kwargs or {}))
