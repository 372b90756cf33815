"""ST-Adapter (Pan et al. 2022, arXiv 2206.13559): convolutions over time between the parts of a block.

    x_p = x_p + Up(Conv_t(Down(x_p)))

where
    x_p        tokens of patch p over the T frames; the class token is unchanged
    Down, Up   linear layers W -> `width` -> W, without activation or layer norm
    Conv_t     depthwise convolution over three frames and one patch

An adapter is placed before the MLP of every block, or before its attention as well. Conv_t and all biases
start at zero, so training starts at CLIP. The output of the last adapter before an MLP is not used, because
only the class token is read after it; it is built to match the published parameter count. The text head is
ours; the published model has the linear head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import TextClassifier, class_texts
from evclip_ray.models.layers.frames import prepare_frames
from evclip_ray.models.layers.heads import LinearHead, TextHead
from evclip_ray.models.layers.towers import Block, ImageTower, attention_branch, mlp_branch
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.st_adapter import Placement, STAdapterConfig
from evclip_ray.models.setting_types import Normalization


class STAdapter(Method):
    """ST-Adapter.

    Args:
        frozen: Frozen networks.
        text_features: (N, D), L2-normalised, for a text head; None for a linear head.
        num_classes: N.
        placement: As in the config.
        width: As in the config.
        dropout: As in the config.
        normalization: As in the config.
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        text_features: Tensor | None,
        num_classes: int,
        placement: Placement = "mlp",
        width: int = 384,
        dropout: float = 0.5,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        self.tower = ImageTower(clip.model.visual, name=clip.name, method="st_adapter")
        self.mlp_adapters = self._adapters(width)
        self.attention_adapters = self._adapters(width) if placement == "both" else None
        self.head = (
            LinearHead(self.tower.width, num_classes, dropout=dropout)
            if text_features is None
            else TextHead(frozen, text_features)
        )
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos."""
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        num_frames = images.shape[1]

        def step(index: int, block: Block, tokens: Tensor) -> Tensor:
            if self.attention_adapters is not None:
                tokens = self.attention_adapters[index](tokens, num_frames)
            # The adapter is applied to the sum, so the MLP branch below reads the adapted tokens.
            tokens = self.mlp_adapters[index](tokens + attention_branch(block, tokens), num_frames)
            return tokens + mlp_branch(block, tokens)

        output: MethodOutput = self.head(self.tower.visual.ln_post(self.tower.encode(images, step)))
        return output

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits.float(), labels)}

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names of a text head."""
        if not isinstance(self.head, TextHead):
            return None
        return TextClassifier.of(self.frozen.clip, self.head.text_features)

    def _adapters(self, width: int) -> nn.ModuleList:
        return nn.ModuleList(SpatioTemporalAdapter(self.tower.width, width) for _ in range(self.tower.depth))


class SpatioTemporalAdapter(nn.Module):
    """Adapter over time: each patch reads the same patch of the previous and the next frame.

    Args:
        dim: W, channels of a token.
        width: Channels of the convolution.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        # Patches are folded into the batch, so a convolution over time alone is the 3 x 1 x 1 one.
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.up = nn.Linear(width, dim)
        # One zero in the chain Down, Conv, Up makes the adapter start as the identity.
        nn.init.zeros_(self.conv.weight)
        for layer in (self.down, self.conv, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Return the adapted tokens, (B T, 1 + P, W), the class token unchanged."""
        # The class token has no position in a frame, so there is nothing to convolve.
        first, patches = tokens[:, :1], tokens[:, 1:]
        narrow = self.down(patches.to(self.down.weight.dtype))
        # (B T, P, w) -> (B, T, P, w) -> (B, P, w, T): Conv1d reads channels before time.
        in_time = narrow.unflatten(0, (-1, num_frames)).permute(0, 2, 3, 1)
        mixed = self.conv(in_time.flatten(0, 1)).unflatten(0, in_time.shape[:2])
        # (B, P, w, T) -> (B, T, P, w) -> (B T, P, W)
        change = self.up(mixed.permute(0, 3, 1, 2).flatten(0, 1))
        return torch.cat([first, patches + change.to(patches.dtype)], dim=1)


def build(
    config: STAdapterConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> STAdapter:
    """Return the module. The class names are encoded here, once, if the head is "text"."""
    texts = class_texts(class_names, config.template)
    return STAdapter(
        frozen,
        text_features=frozen.clip.encode_text(texts) if config.head == "text" else None,
        num_classes=len(texts),
        placement=config.placement,
        width=config.width,
        dropout=config.dropout,
        normalization=config.normalization,
    )
