"""Multiply-accumulates (MACs) by part of a method.

torch's counter sees every matrix product, convolution and attention, fused or not. Operations without a
matrix product (norms, activations, resizing) are not counted, as in papers. 1 MAC = 2 FLOP.

An operation belongs to the labelled module that owns one of its weights. A method may call a frozen weight
from its own code, for example to split an in-projection into q, k and v; the cost is still that of the frozen
tower. Operations without a labelled weight belong to the innermost labelled module that is running.
"""

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

REST = "head"
"""Part of operations outside of labelled modules: cosines with the class texts, pooling."""
BACKWARD = "backward"


def flop_counter() -> FlopCounterMode:
    """Return torch's counter of operations, which counts fused attention on the CPU in every version."""
    # torch 2.11 has no formula for these two, so that attention on the CPU was left out.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={fused: _attention, backward: _attention_backward})


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


class PartCounter:
    """Context manager that counts MACs by label.

    Attributes:
        macs: Label -> MACs so far. After `backward()` all operations count as "backward", including the
            activations that it recomputes.

    Args:
        parts: Module -> label.
    """

    def __init__(self, parts: Mapping[nn.Module, str]) -> None:
        self.macs: Counter[str] = Counter()
        self._parts = parts
        self._stack: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._counted = 0
        self._in_backward = False
        # Views of a weight (its transpose, a slice) share its storage, also on the meta device.
        self._owners = {
            _storage(weight): label
            for module, label in parts.items()
            for weight in module.parameters(recurse=False)
            # Biases and norms have one dimension and take part in no matrix product.
            if weight.dim() > 1
        }

    def __enter__(self) -> Self:
        # Hooks keep a stack of the running labelled modules. `label=label` binds the value of this iteration.
        for module, label in self._parts.items():
            self._handles.append(module.register_forward_pre_hook(lambda *_, label=label: self._enter(label)))
            self._handles.append(module.register_forward_hook(lambda *_: self._leave()))
        self._flops = flop_counter()
        self._flops.__enter__()
        # The mode entered last sees an operation first and passes it on to the counter.
        self._by_weight = _ByWeight(self)
        self._by_weight.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()
        self._by_weight.__exit__(kind, error, trace)
        self._flops.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()

    def backward(self) -> None:
        """Count all further operations as "backward"."""
        self._settle()
        self._in_backward = True

    def _owner(self, arguments: Any) -> str | None:
        # Gradients are one part of their own: the weight does not decide.
        if self._in_backward:
            return None
        tensors = (leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor))
        labels = (self._owners.get(_storage(tensor)) for tensor in tensors)
        return next((label for label in labels if label is not None), None)

    def _settle(self) -> None:
        total = self._flops.get_total_flops()
        running = self._stack[-1] if self._stack else REST
        # torch counts 2 FLOP per multiply-accumulate.
        self.macs[BACKWARD if self._in_backward else running] += (total - self._counted) // 2
        self._counted = total

    def _enter(self, label: str) -> None:
        self._settle()
        self._stack.append(label)

    def _leave(self) -> None:
        self._settle()
        self._stack.pop()


class _ByWeight(TorchDispatchMode):
    """Assigns each operation on a labelled weight to the label of that weight."""

    def __init__(self, counter: PartCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        owner = self._counter._owner((args, kwargs))
        if owner is None:
            return func(*args, **(kwargs or {}))
        self._counter._enter(owner)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._counter._leave()


def _storage(tensor: Tensor) -> int:
    """Return an identifier of the memory of a tensor, which its views share."""
    # The address of the storage object: `data_ptr` is 0 for every tensor on the meta device.
    return int(tensor.untyped_storage()._cdata)
