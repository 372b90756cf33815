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
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import Template, TextClassifier, class_texts
from evclip_ray.models.layers.frames import Normalization, prepare_frames
from evclip_ray.models.layers.heads import Head, LinearHead, TextHead
from evclip_ray.models.layers.towers import Block, ImageTower, attention_branch, mlp_branch
from evclip_ray.models.methods.base import Cacheable, Method, MethodCase, MethodConfig

Placement = Literal["mlp", "both"]


class STAdapterConfig(MethodConfig):
    """Settings of ST-Adapter.

    Attributes:
        placement: "mlp" (one adapter per block) or "both" (before attention too: twice the parameters).
        width: Channels of the convolution; parameters grow linearly with it.
        head: "text" starts at zero-shot CLIP and keeps its classes; "linear" starts at random, as published.
        dropout: Rate before the linear head; the text head ignores it.
        template: Sentence with one gap {} for the class name; read by the text head.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    name: Literal["st_adapter"] = "st_adapter"
    placement: Placement = "mlp"
    width: Annotated[int, Field(ge=1)] = 384
    head: Head = "text"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts. The trained parts are inside the image tower, so frame features change."""
        return frozenset({"class_text"})

    def build(
        self, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
    ) -> "STAdapter":
        """Return the module. The class names are encoded here, once, if the head is "text"."""
        texts = class_texts(class_names, self.template)
        return STAdapter(
            frozen,
            text_features=frozen.clip.encode_text(texts) if self.head == "text" else None,
            num_classes=len(texts),
            placement=self.placement,
            width=self.width,
            dropout=self.dropout,
            normalization=self.normalization,
        )


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


# After the last MLP only the class token is read, and that adapter changes the patches alone: as published.
METHOD_CASES = (
    MethodCase(num_trainable=4384, settings={"width": 16}, needs_vit=True, never_read=("mlp_adapters.1.",)),
    MethodCase(
        num_trainable=9028,
        label="both, linear",
        settings={"width": 16, "placement": "both", "head": "linear", "dropout": 0.0},
        needs_vit=True,
        never_read=("mlp_adapters.1.",),
    ),
    MethodCase(
        num_trainable=9028,
        label="dropout",
        settings={"width": 16, "placement": "both", "head": "linear"},
        needs_vit=True,
        is_random=True,
        never_read=("mlp_adapters.1.",),
    ),
)
