"""CLIP-LoRA (Zanella and Ben Ayed 2024, arXiv 2405.18541) in the image tower.

In every attention of the image tower, for each projection W of q, k and v:

    y = W x + b + (alpha / sqrt(r)) B A dropout(x)

where
    W, b     frozen projection (E, E) and bias
    A        trained, (r, E), uniform in +-1/sqrt(E) at the start
    B        trained, (E, r), zero at the start, so training starts at zero-shot CLIP
    alpha    setting `alpha`

The logits are those of zero-shot CLIP on the mean of the frame features, with cross entropy as the loss.

The scale follows the released code, alpha / sqrt(r). Where another implementation has alpha / r, its alpha is
larger by the factor sqrt(r). Departures: the released default also adapts the text tower, and the mean over
frames is ours, because CLIP-LoRA reads single images.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import Template, class_texts
from evclip_ray.models.layers.frames import Normalization, prepare_frames
from evclip_ray.models.layers.heads import TextHead
from evclip_ray.models.layers.towers import Block, ImageTower, attention_branch, mlp_branch
from evclip_ray.models.methods.base import Cacheable, Method, MethodCase, MethodConfig


class CLIPLoRAConfig(MethodConfig):
    """Settings of CLIP-LoRA.

    Attributes:
        rank: r; parameters grow linearly with it. ViT-B/16 has 110,592 at rank 2.
        alpha: Weight of the low-rank terms.
        dropout: Rate on the input of the low-rank terms alone.
        template: Sentence with one gap {} for the class name.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    name: Literal["clip_lora"] = "clip_lora"
    rank: Annotated[int, Field(ge=1)] = 2
    alpha: Annotated[float, Field(gt=0)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    template: Template = "a photo of a {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts. The image tower is adapted, so frame features change in every step."""
        return frozenset({"class_text"})

    def build(
        self, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
    ) -> "CLIPLoRA":
        """Return the module. The class names are encoded here, once."""
        return CLIPLoRA(
            frozen,
            text_features=frozen.clip.encode_text(class_texts(class_names, self.template)),
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            normalization=self.normalization,
        )


class CLIPLoRA(Method):
    """CLIP with low-rank terms in the attention of its image tower.

    Args:
        frozen: Frozen networks.
        text_features: (N, D), L2-normalised.
        rank: As in the config.
        alpha: As in the config.
        dropout: As in the config.
        normalization: As in the config.
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        text_features: Tensor,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        self.tower = ImageTower(clip.model.visual, name=clip.name, method="clip_lora")
        self.lora = nn.ModuleList(
            nn.ModuleDict(
                {name: LowRank(self.tower.width, rank, alpha=alpha, dropout=dropout) for name in "qkv"}
            )
            for _ in range(self.tower.depth)
        )
        self.head = TextHead(frozen, text_features)
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos."""
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)

        def step(index: int, block: Block, tokens: Tensor) -> Tensor:
            # The keys "q", "k", "v" of the ModuleDict name the projections to add to.
            tokens = tokens + attention_branch(block, tokens, additions=self.lora[index])
            return tokens + mlp_branch(block, tokens)

        class_tokens = self.tower.encode(images, step)
        output: MethodOutput = self.head(self.tower.visual.ln_post(class_tokens))
        return output

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits, labels)}


class LowRank(nn.Module):
    """Term (alpha / sqrt(r)) B A dropout(x) of one projection.

    Args:
        width: E, channels of the projection.
        rank: r.
        alpha: Weight.
        dropout: Rate on the input.
    """

    def __init__(self, width: int, rank: int, *, alpha: float, dropout: float) -> None:
        super().__init__()
        bound = width**-0.5
        self.a = nn.Parameter(torch.empty(rank, width).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(width, rank))
        self.scale = alpha / rank**0.5
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, L, E) to (M, L, E), float32 unless under autocast."""
        narrow = F.linear(self.dropout(x.to(self.a.dtype)), self.a)
        return self.scale * F.linear(narrow, self.b)


# Debug backbone: 2 blocks x 3 projections x 2 factors x rank 2 x 64 channels.
METHOD_CASES = (
    MethodCase(num_trainable=1536, settings={"dropout": 0.0}, needs_vit=True),
    MethodCase(num_trainable=1536, label="dropout", needs_vit=True, is_random=True),
)
