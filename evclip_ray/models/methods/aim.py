"""AIM (Yang et al. 2023, arXiv 2302.03024): CLIP's attention is also applied over time, with adapters.

In every block:

    x = x + A'_t(MHA(LN1(x)))                  over the frames of each patch
    x = x + A_s(MHA(LN1(x)))                   over the patches of each frame
    x = x + MLP(LN2(x)) + scale A'_m(LN2(x))

where
    MHA, LN, MLP    frozen parts of the block
    A_s             adapter x + W2 GELU(W1 x), trained
    A'_t, A'_m      adapters without the skip, W2 GELU(W1 x), trained
    scale           setting `scale`

With two temporal adapters, attention over time reads A_in(LN1(x)). A temporal embedding, zero at the start,
is added to the tokens of each frame. The last layer norm is trained too. The text head is ours; the
published model has the linear head.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.formatting import counted
from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.adapter import Adapter
from evclip_ray.models.layers.class_text import TextClassifier, class_texts
from evclip_ray.models.layers.frames import prepare_frames
from evclip_ray.models.layers.heads import LinearHead, TextHead
from evclip_ray.models.layers.towers import Block, ImageTower, attention_branch
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.aim import AIMConfig
from evclip_ray.models.setting_types import Normalization


class AIM(Method):
    """AIM.

    Args:
        frozen: Frozen networks.
        text_features: (N, D), L2-normalised, for a text head; None for a linear head.
        num_classes: N.
        num_frames: T; the temporal embedding binds the method to it.
        temporal_adapters: As in the config.
        adapter_ratio: As in the config.
        scale: As in the config.
        dropout: As in the config.
        normalization: As in the config.
    """

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
        # A trained copy: the frozen tower keeps its own norm for other methods of this process.
        self.norm = copy.deepcopy(self.tower.visual.ln_post).float().requires_grad_(True)
        # The frozen one may be rounded.
        self.norm.load_state_dict(clip.last_norm)
        self.head = (
            LinearHead(width, num_classes, dropout=dropout)
            if text_features is None
            else TextHead(frozen, text_features)
        )
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos.

        Raises:
            ValueError: The number of frames differs from that of the temporal embedding.
        """
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        num_frames = len(self.temporal_embedding)
        if images.shape[1] != num_frames:
            raise ValueError(
                f"this aim was built for {counted(num_frames, 'frame')}, got {images.shape[1]}; "
                "give as many frames as it was trained with"
            )

        def step(index: int, block: Block, tokens: Tensor) -> Tensor:
            after: Tensor = self.adapters[index](block, tokens, num_frames)
            return after

        class_tokens = self.tower.encode(images, step, added=self.temporal_embedding)
        output: MethodOutput = self.head(self.norm(class_tokens.to(self.norm.weight.dtype)))
        return output

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits.float(), labels)}

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names of a text head."""
        if not isinstance(self.head, TextHead):
            return None
        return TextClassifier.of(self.frozen.clip, self.head.text_features)


class BlockAdapters(nn.Module):
    """Adapters of one block. The forward pass runs the frozen block with them."""

    def __init__(self, width: int, *, ratio: float, scale: float, temporal_adapters: int) -> None:
        super().__init__()
        self.time_in = Adapter(width, ratio=ratio) if temporal_adapters == 2 else nn.Identity()
        # Adapters without the skip start at zero, those with it as the identity: a block starts as in CLIP.
        self.time = Adapter(width, ratio=ratio, skip=False)
        self.space = Adapter(width, ratio=ratio)
        self.mlp = Adapter(width, ratio=ratio, skip=False)
        self.scale = scale

    def forward(self, block: Block, tokens: Tensor, num_frames: int) -> Tensor:
        """Return the tokens after the frozen `block`, (B T, L, W)."""
        # (B T, L, W) -> (B, L, T, W) -> (B L, T, W): attention over the frames of each patch.
        in_time = tokens.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
        over_time = self.time(block.ls_1(block.attention(self.time_in(block.ln_1(in_time)))))
        # (B L, T, W) -> (B, T, L, W) -> (B T, L, W)
        tokens = tokens + over_time.unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)
        # The skip of A_s already contains the attention branch itself.
        tokens = tokens + self.space(attention_branch(block, tokens))
        normed = block.ln_2(tokens)
        after: Tensor = tokens + block.ls_2(block.mlp(normed)) + self.scale * self.mlp(normed)
        return after


def build(
    config: AIMConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> AIM:
    """Return the module. The class names are encoded here, once, if the head is "text"."""
    texts = class_texts(class_names, config.template)
    return AIM(
        frozen,
        text_features=frozen.clip.encode_text(texts) if config.head == "text" else None,
        num_classes=len(texts),
        num_frames=num_frames,
        temporal_adapters=config.temporal_adapters,
        adapter_ratio=config.adapter_ratio,
        scale=config.scale,
        dropout=config.dropout,
        normalization=config.normalization,
    )
