"""Bottleneck adapter of EZ-CLIP and AIM."""

from torch import Tensor, nn


class Adapter(nn.Module):
    """Adapter x + W2 GELU(W1 x). W2 and its bias start at zero, so it starts as the identity.

    Args:
        width: W, channels of the input and the output.
        ratio: Width of the bottleneck as a fraction of W.
        skip: Whether to add x; without it the adapter starts at zero.
    """

    def __init__(self, width: int, *, ratio: float = 0.25, skip: bool = True) -> None:
        super().__init__()
        hidden = max(1, int(width * ratio))
        self.down = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.up = nn.Linear(hidden, width)
        self.skip = skip
        # Only the second layer starts at zero: with both at zero no gradient would reach either weight.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted tensor, (..., W), in the dtype of `x`."""
        # The adapter is float32 even over a bfloat16 tower; its result returns to the tower's number format.
        change = self.up(self.activation(self.down(x.to(self.down.weight.dtype)))).to(x.dtype)
        adapted: Tensor = x + change if self.skip else change
        return adapted
