"""Multiply-accumulates by part: whose module was running when an operation was dispatched.

torch's counter sees every matrix product, convolution and attention, fused or not. What has no
matrix in it (norms, activations, resizing) is not counted, as in the papers. 1 MAC = 2 FLOP.
"""

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

REST = "head"
"""The part that gets what runs in no labelled module: similarities to the class texts, pooling."""
BACKWARD = "backward"


class PartCounter:
    """Counts, while it is entered, the MACs of each label in `parts`; the innermost labelled module has them.

    `macs`: label -> multiply-accumulates so far. From `backward()` on all belong to one more part, what
    is recomputed too.
    """

    def __init__(self, parts: Mapping[nn.Module, str]) -> None:
        self.macs: Counter[str] = Counter()
        self._parts = parts
        self._stack: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._seen = 0
        self._in_backward = False

    def __enter__(self) -> Self:
        for module, label in self._parts.items():
            self._handles.append(module.register_forward_pre_hook(lambda *_, label=label: self._enter(label)))
            self._handles.append(module.register_forward_hook(lambda *_: self._leave()))
        self._flops = FlopCounterMode(display=False)
        self._flops.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()
        self._flops.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()

    def backward(self) -> None:
        """From here on gradients are computed."""
        self._settle()
        self._in_backward = True

    def _settle(self) -> None:
        total = self._flops.get_total_flops()
        running = self._stack[-1] if self._stack else REST
        self.macs[BACKWARD if self._in_backward else running] += (total - self._seen) // 2
        self._seen = total

    def _enter(self, label: str) -> None:
        self._settle()
        self._stack.append(label)

    def _leave(self) -> None:
        self._settle()
        self._stack.pop()


class DistinctLabels(TorchDispatchMode):
    """Where labels have no values: `unique` finds them all different, `num_classes` at most."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._num_classes = num_classes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer `unique`; pass everything else on."""
        if func is torch.ops.aten._unique2.default:
            labels = args[0]
            found = labels.new_empty(min(len(labels), self._num_classes))
            return found, labels.new_empty(0), labels.new_empty(0)
        return func(*args, **(kwargs or {}))
