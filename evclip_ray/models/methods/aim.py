"""AIM: CLIP's own attention looks over time as well, with adapters around it (arXiv 2302.03024).

In every block, MHA, LN, MLP of CLIP frozen, A an adapter (A' without its skip):

    x = x + A'_t(MHA(LN1(x)))                over time, patch by patch
    x = x + A_s(MHA(LN1(x)))                 over the patches of a frame
    x = x + MLP(LN2(x)) + scale A'_m(LN2(x))

With two temporal adapters, the attention over time reads A_in(LN1(x)). A frame's tokens start with a
temporal embedding, zero at first. The last layer norm is trained too.
"""

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evclip_ray.models.layers.adapter import Adapter
from evclip_ray.models.layers.class_text import Template, class_texts
from evclip_ray.models.layers.frames import Normalization, prepare_frames
from evclip_ray.models.layers.heads import Head, LinearHead, TextHead
from evclip_ray.models.layers.towers import ImageTower, attend
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch


class AIMConfig(MethodConfig):
    """AIM. `temporal_adapters`: 1, or 2 as published on Something-Something, with `scale` 1.

    `scale`: of the MLP's adapter; `dropout`: before the linear head.
    """

    name: Literal["aim"] = "aim"
    temporal_adapters: Literal[1, 2] = 1
    adapter_ratio: Annotated[float, Field(gt=0, le=4)] = 0.25
    scale: Annotated[float, Field(gt=0)] = 0.5
    head: Head = "text"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """The texts: what is trained sits inside the image tower."""
        return AIM.caches

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "AIM":
        """The module; the class names are encoded here, once, if its head reads them."""
        texts = class_texts(class_names, self.template)
        return AIM(
            frozen,
            text_features=frozen.clip.encode_text(texts) if self.head == "text" else None,
            num_classes=len(texts),
            num_frames=num_frames,
            temporal_adapters=self.temporal_adapters,
            adapter_ratio=self.adapter_ratio,
            scale=self.scale,
            dropout=self.dropout,
            normalization=self.normalization,
        )


class AIM(Method):
    """AIM with a text head over `text_features` (N, D), or a linear one if that is None."""

    caches = frozenset({"class_text"})

    def __init__(
        self,
        frozen: Frozen,
        *,
        text_features: Tensor | None,
        num_classes: int,
        num_frames: int,
        temporal_adapters: int = 1,
        adapter_ratio: float = 0.25,
        scale: float = 0.5,
        dropout: float = 0.5,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        self.tower = ImageTower(clip.model.visual, name=clip.name, method="aim")
        width = self.tower.width
        self.adapters = nn.ModuleList(
            BlockAdapters(width, ratio=adapter_ratio, scale=scale, temporal_adapters=temporal_adapters)
            for _ in range(self.tower.depth)
        )
        self.temporal_embedding = nn.Parameter(torch.zeros(num_frames, 1, width))
        self.norm = copy.deepcopy(self.tower.visual.ln_post).float().requires_grad_(True)
        self.head = (
            LinearHead(width, num_classes, dropout=dropout)
            if text_features is None
            else TextHead(frozen, text_features)
        )
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos.

        Raises:
            ValueError: another number of frames than the temporal embedding has.
        """
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        num_frames = len(self.temporal_embedding)
        if images.shape[1] != num_frames:
            raise ValueError(
                f"this aim was built for {num_frames} frames, got {images.shape[1]}; "
                "give as many frames as it was trained with"
            )

        def step(index: int, block: Any, tokens: Tensor) -> Tensor:
            after: Tensor = self.adapters[index](block, tokens, num_frames)
            return after

        class_tokens = self.tower.encode(images, step, added=self.temporal_embedding)
        output: MethodOutput = self.head(self.norm(class_tokens.to(self.norm.weight.dtype)))
        return output

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits.float(), labels)}


class BlockAdapters(nn.Module):
    """The adapters of one block, and the block run with them."""

    def __init__(self, width: int, *, ratio: float, scale: float, temporal_adapters: int) -> None:
        super().__init__()
        self.time_in = Adapter(width, ratio=ratio) if temporal_adapters == 2 else nn.Identity()
        self.time = Adapter(width, ratio=ratio, skip=False)
        self.space = Adapter(width, ratio=ratio)
        self.mlp = Adapter(width, ratio=ratio, skip=False)
        self.scale = scale

    def forward(self, block: Any, tokens: Tensor, num_frames: int) -> Tensor:
        """(B T, L, W) -> (B T, L, W) through the frozen `block`."""
        in_time = tokens.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
        over_time = self.time(block.ls_1(block.attention(self.time_in(block.ln_1(in_time)))))
        tokens = tokens + over_time.unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)
        tokens = tokens + self.space(attend(block, tokens))
        normed = block.ln_2(tokens)
        after: Tensor = tokens + block.ls_2(block.mlp(normed)) + self.scale * self.mlp(normed)
        return after
