"""Text feature cache: features of a trained text tower, reused while its parameters keep their values."""

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

_TEXTS_AT_ONCE = 256

_pass: contextvars.ContextVar[object] = contextvars.ContextVar("pass", default=None)


@contextlib.contextmanager
def fixed_parameters() -> Iterator[None]:
    """Declare that no parameter changes inside the block, so that caches compare them once in it.

    A comparison waits for a GPU. In a validation pass it would do so once per batch and tensor.
    """
    token = _pass.set(object())
    try:
        yield
    finally:
        _pass.reset(token)


def encode_in_chunks(encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return `encode(*inputs)`; without gradients the texts are encoded 256 at a time.

    A hidden layer of 10,000 texts takes 6 GB in a ViT-B. With gradients it would be stored anyway.

    Args:
        encode: Function of chunks of `inputs` that returns one row per text.
        inputs: Tensors with one row per text.
    """
    if torch.is_grad_enabled() or len(inputs[0]) <= _TEXTS_AT_ONCE:
        return encode(*inputs)
    chunks = zip(*(each.split(_TEXTS_AT_ONCE) for each in inputs), strict=True)
    return torch.cat([encode(*chunk) for chunk in chunks])


class TextFeatureCache:
    """Cache of one result of `encode`, valid while the parameters have the same values.

    A video costs 147 GMAC (ViT-B/16, 8 frames) and 400 class texts 1,192. Without the cache, evaluation
    would mostly encode the same texts again. It stores nothing with gradients on.

    The cache keeps a copy of the parameters and compares values. Version counters of tensors would be
    cheaper, but fused optimisers, `.data` and collective operations change values without counting. For a
    fine-tuned ViT-B, a comparison reads 2 x 150 MB instead of computing 1,192 GMAC.
    """

    def __init__(self) -> None:
        self._precision: object = None
        self._compared_in: object = None
        self._parameters: list[Tensor] = []
        self._texts: Tensor | None = None

    def __call__(self, parameters: Iterable[nn.Parameter], encode: Callable[[], Tensor]) -> Tensor:
        """Return `encode()`, from the cache if `parameters` and the precision have not changed.

        Args:
            parameters: All parameters that the result depends on. A copy of them is kept.
            encode: Computes the text features.
        """
        # With gradients the graph of each step is needed, so a stored result would be useless or stale.
        if torch.is_grad_enabled():
            return encode()
        # torch.export cannot trace the comparison below. It stores the texts as a constant of its graph.
        if torch.compiler.is_exporting() and self._texts is not None:
            return self._texts
        current = [parameter.detach() for parameter in parameters]
        device = current[0].device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        precision = autocast and torch.get_autocast_dtype(device)
        texts = self._texts if precision == self._precision else None
        is_compared = _pass.get() is not None and _pass.get() is self._compared_in
        if texts is None or not (is_compared or self._is_unchanged(current)):
            texts = self._texts = encode()
            self._precision = precision
            self._parameters = [value.clone() for value in current]
        self._compared_in = _pass.get()
        return texts

    def _is_unchanged(self, current: list[Tensor]) -> bool:
        return len(current) == len(self._parameters) and all(
            # `torch.equal` refuses tensors on two devices and ignores the number format. A tensor without
            # data (meta), with which operations are counted, has no values that could change.
            new.device == old.device and new.dtype == old.dtype and (new.is_meta or torch.equal(new, old))
            for new, old in zip(current, self._parameters, strict=True)
        )
