"""The bottleneck adapter of EZ-CLIP and AIM: two layers that begin by adding nothing."""

from torch import Tensor, nn


class Adapter(nn.Module):
    """(..., W) -> (..., W): x + W2 GELU(W1 x), or without `x +` when not `skip`.

    W2 and its bias start at zero. `ratio`: of the bottleneck's width to W.
    """

    def __init__(self, width: int, *, ratio: float = 0.25, skip: bool = True) -> None:
        super().__init__()
        hidden = max(1, int(width * ratio))
        self.down = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.up = nn.Linear(hidden, width)
        self.skip = skip
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W), in the number format of `x`."""
        change = self.up(self.activation(self.down(x.to(self.down.weight.dtype)))).to(x.dtype)
        adapted: Tensor = x + change if self.skip else change
        return adapted
