"""ST-Adapter: depthwise convolutions over time between the blocks' parts (arXiv 2206.13559).

    x_patch = x_patch + Up(Conv_t(Down(x_patch)))          no activation, no norm

Conv_t is depthwise, three frames long, one patch wide; the class token stays as it is. An adapter
stands before the MLP of every block, or before its attention too. Conv_t and all biases start at
zero, so that training starts from CLIP. The last adapter before an MLP is read by nobody (behind it
only the class token is), and is there for the published count.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evclip_ray.models.layers.class_text import Template, class_texts
from evclip_ray.models.layers.frames import Normalization, prepare_frames
from evclip_ray.models.layers.heads import Head, LinearHead, TextHead
from evclip_ray.models.layers.towers import ImageTower, attend, think
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch

Placement = Literal["mlp", "both"]


class STAdapterConfig(MethodConfig):
    """ST-Adapter. `placement`: before every MLP (12 x 384 on ViT-B) or before attention too (24 x 384).

    `width`: channels of the convolution; `dropout`: before the linear head.
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
        """The texts: what is trained sits inside the image tower."""
        return STAdapter.caches

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "STAdapter":
        """The module; the class names are encoded here, once, if its head reads them."""
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
    """ST-Adapter with a text head over `text_features` (N, D), or a linear one if that is None."""

    caches = frozenset({"class_text"})

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
        """Logits of B videos."""
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        num_frames = images.shape[1]

        def step(index: int, block: Any, tokens: Tensor) -> Tensor:
            if self.attention_adapters is not None:
                tokens = self.attention_adapters[index](tokens, num_frames)
            tokens = self.mlp_adapters[index](tokens + attend(block, tokens), num_frames)
            return tokens + think(block, tokens)

        output: MethodOutput = self.head(self.tower.visual.ln_post(self.tower.encode(images, step)))
        return output

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits.float(), labels)}

    def _adapters(self, width: int) -> nn.ModuleList:
        return nn.ModuleList(SpatioTemporalAdapter(self.tower.width, width) for _ in range(self.tower.depth))


class SpatioTemporalAdapter(nn.Module):
    """(B T, 1 + P, W) -> the same: the patches see their own place one frame before and after."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        # Patches are folded into the batch, so a convolution over time alone is the 3 x 1 x 1 one.
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.conv.weight)
        for layer in (self.down, self.conv, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """(B T, 1 + P, W) -> (B T, 1 + P, W)."""
        first, patches = tokens[:, :1], tokens[:, 1:]
        narrow = self.down(patches.to(self.down.weight.dtype))
        in_time = narrow.unflatten(0, (-1, num_frames)).permute(0, 2, 3, 1)
        mixed = self.conv(in_time.flatten(0, 1)).unflatten(0, in_time.shape[:2])
        change = self.up(mixed.permute(0, 3, 1, 2).flatten(0, 1))
        return torch.cat([first, patches + change.to(patches.dtype)], dim=1)
