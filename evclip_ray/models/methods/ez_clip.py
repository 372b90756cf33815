"""EZ-CLIP: temporal prompts in the image blocks, adapters in both towers (arXiv 2312.08010, as T2L).

In block l of the image tower, with X_t the tokens of frame t and MHA, LN those of CLIP, frozen:

    q_t = P_{l,t} + mean over tokens of X_t            one query a frame
    q   = MHA(LN1(q))                                  over time, no residual
    X_t = X_t + MHA(LN1([X_t, q_t])) without the token of q_t
    X_t = A(X_t),  A(x) = x + W2 GELU(W1 x)
    X_t = X_t + MLP(LN2(X_t))

The text blocks have the adapter alone. A video is the mean of its frame features, L2-normalised.

    loss = matching(videos, their texts) + weight * motion(frame features)

`drop_path` grows linearly over the blocks and drops a frame's branch (text: a text's). The published
code lays its tokens out first, so that it drops one token position of the whole batch, and drops
attention weights at the same rates; that is not reproduced.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from evclip_ray.models.layers.adapter import Adapter
from evclip_ray.models.layers.class_descriptions import read_descriptions
from evclip_ray.models.layers.class_text import Template, class_logits, class_texts, mean_feature
from evclip_ray.models.layers.frames import Normalization, prepare_frames
from evclip_ray.models.layers.gather import gather_rows
from evclip_ray.models.layers.text_cache import TextMemo
from evclip_ray.models.layers.towers import ImageTower, TextTower, attend, think
from evclip_ray.models.methods.base import Frozen, Method, MethodConfig, MethodOutput, VideoBatch
from evclip_ray.models.methods.ez_clip_losses import matching_loss, motion_loss

Prompts = Literal["deep", "shallow", "none"]
Rate = Annotated[float, Field(ge=0, lt=1)]

# The published start takes patches of 16 pixels whatever the backbone's are.
_PATCH_VALUES = 3 * 16 * 16


class EZCLIPConfig(MethodConfig):
    """EZ-CLIP. `prompts`: in every block ("deep"), in the first ("shallow"), or adapters only.

    `descriptions`: a CSV with one text a class, used instead of `template`; a description that
    overflows the text context is an error unless `allow_truncation`.
    """

    name: Literal["ez_clip"] = "ez_clip"
    prompts: Prompts = "deep"
    adapter_ratio: Annotated[float, Field(gt=0, le=4)] = 0.25
    motion_weight: Annotated[float, Field(ge=0)] = 1.0
    drop_path: Rate = 0.0
    prompt_dropout: Rate = 0.0
    template: Template = "A video of {}."
    descriptions: str | None = None
    allow_truncation: bool = False
    normalization: Normalization = "own"

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "EZCLIP":
        """The module; class texts are tokenised here and encoded in every step."""
        texts = class_texts(class_names, self.template)
        if self.descriptions is not None:
            texts = read_descriptions(Path(self.descriptions), class_names)
        return EZCLIP(
            frozen,
            tokens=frozen.clip.tokenize(texts, allow_truncation=self.allow_truncation),
            num_frames=num_frames,
            prompts=self.prompts,
            adapter_ratio=self.adapter_ratio,
            motion_weight=self.motion_weight,
            drop_path=self.drop_path,
            prompt_dropout=self.prompt_dropout,
            normalization=self.normalization,
        )


class EZCLIP(Method):
    """EZ-CLIP over the classes of `tokens`, (N, L) int64; other keywords as in the config.

    `temporal_prompts`: (1 or number of blocks, T, W), which bind the method to T frames.
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        tokens: Tensor,
        num_frames: int,
        prompts: Prompts = "deep",
        adapter_ratio: float = 0.25,
        motion_weight: float = 1.0,
        drop_path: float = 0.0,
        prompt_dropout: float = 0.0,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        self.image_tower = ImageTower(clip.model.visual, name=clip.name, method="ez_clip")
        self.text_tower = TextTower(clip.model, name=clip.name, method="ez_clip")
        self.image_adapters = _adapters(self.image_tower, adapter_ratio)
        self.text_adapters = _adapters(self.text_tower, adapter_ratio)
        self.temporal_prompts = None
        if prompts != "none":
            depth, width = (self.image_tower.depth if prompts == "deep" else 1), self.image_tower.width
            bound = (6 / (_PATCH_VALUES + width)) ** 0.5
            self.temporal_prompts = nn.Parameter(
                torch.empty(depth, num_frames, width).uniform_(-bound, bound)
            )
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.num_frames = num_frames
        self.motion_weight = motion_weight
        self.drop_path = drop_path
        self.prompt_dropout = prompt_dropout
        self.normalization = normalization
        self.memo = TextMemo()

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos; with `batch.labels`, those of classes outside the batch are -inf.

        Encoding 400 class texts costs eight times a video (ViT-B/16), and the loss needs those of the
        batch only.
        """
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        frames = self.encode_frames(images)
        video_features = mean_feature(frames)
        classes, text_features = self._texts(batch.labels)
        known = class_logits(self.frozen.clip, video_features, text_features)
        logits = known.new_full((len(known), len(self.tokens)), -torch.inf)
        return MethodOutput(
            logits=logits.index_copy(1, classes, known),
            frame_features=frames,
            video_features=video_features,
            extra={"text_features": text_features, "classes": classes},
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`matching` of the batch's videos and texts, and `motion`, over the videos of all workers."""
        assert output.frame_features is not None
        assert output.video_features is not None
        texts = output.extra["text_features"][torch.searchsorted(output.extra["classes"], labels)]
        logits = class_logits(self.frozen.clip, gather_rows(output.video_features), gather_rows(texts))
        terms = {"matching": matching_loss(logits, gather_rows(labels))}
        if self.motion_weight > 0:
            terms["motion"] = self.motion_weight * motion_loss(output.frame_features)
        return terms

    def encode_frames(self, images: Tensor) -> Tensor:
        """(B, T, 3, S, S) prepared -> (B, T, D), un-normalised.

        Raises:
            ValueError: T is not the number of frames that the prompts were made for.
        """
        if self.temporal_prompts is not None and images.shape[1] != self.num_frames:
            raise ValueError(
                f"the temporal prompts of ez_clip are for {self.num_frames} frames, got {images.shape[1]}; "
                "give as many frames as it was trained with"
            )
        return self.image_tower.project(self.image_tower.encode(images, self.image_block))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(M, L) int64 -> (M, D), un-normalised."""
        return self.text_tower.encode(self.text_tower.embed(tokens), tokens, self._text_block)

    def image_block(self, index: int, block: Any, tokens: Tensor) -> Tensor:
        """(B T, L, W) -> (B T, L, W): one block of the image tower as EZ-CLIP runs it."""
        rate = self._rate(index, self.image_tower.depth)
        query = self._temporal_query(index, block, tokens, rate)
        seen = tokens if query is None else torch.cat([tokens, query], dim=1)
        branch = attend(block, seen)[:, : tokens.shape[1]]
        tokens = self.image_adapters[index](tokens + self._dropped(branch, rate))
        return tokens + self._dropped(think(block, tokens), rate)

    def _texts(self, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if labels is not None:
            classes = labels.unique()
            return classes, self._text_features(self.tokens[classes])
        classes = torch.arange(len(self.tokens), device=self.tokens.device)
        return classes, self.memo(self.parameters(), lambda: self._text_features(self.tokens))

    def _text_features(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.encode_text(tokens).float(), dim=-1)

    def _temporal_query(self, index: int, block: Any, tokens: Tensor, rate: float) -> Tensor | None:
        if self.temporal_prompts is None or index >= len(self.temporal_prompts):
            return None
        prompt = F.dropout(self.temporal_prompts[index], self.prompt_dropout, self.training)
        query = prompt + tokens.mean(1).unflatten(0, (-1, self.num_frames))
        query = self._dropped(attend(block, query.to(tokens.dtype)), rate)
        return query.flatten(0, 1).unsqueeze(1)

    def _text_block(self, index: int, block: Any, words: Tensor) -> Tensor:
        rate = self._rate(index, self.text_tower.depth)
        words = words + self._dropped(self.text_tower.attend(block, words), rate)
        words = self.text_adapters[index](words)
        return words + self._dropped(think(block, words), rate)

    def _rate(self, index: int, depth: int) -> float:
        return self.drop_path * index / max(1, depth - 1)

    def _dropped(self, branch: Tensor, rate: float) -> Tensor:
        dropped: Tensor = stochastic_depth(branch, rate, "row", self.training)
        return dropped


def _adapters(tower: ImageTower | TextTower, ratio: float) -> nn.ModuleList:
    return nn.ModuleList(Adapter(tower.width, ratio=ratio) for _ in range(tower.depth))
