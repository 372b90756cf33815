"""Motion prompts: what moves in a video decides the words around the class names.

A reconstruction, ours, of "Seeing in Flowing" (arXiv 2308.04828), which names its parts and publishes
neither equations, sizes nor code. With f_t the frozen frame features and t_c the class text of the
template, both un-normalised:

    M, S  = motion and space streams of f                            two-stream motion modelling block
    f'_t  = f_t + g1 S_t + g2 M_t,   v = mean_t f'_t
    t_bc  = t_c + g3 (CLIP_text([start] ctx + pi(mean M) [c .]) - t_c)    dynamic prompts ("full")
    t_bc  = t_c + g3 W mean M                                             or without text tower ("late")
    v'    = v + g4 CA(v <- t_b),   t' = t_b + g5 CA(t_b <- v, f')    multimodal communication block
    logits = exp(s) L2(v') . L2(t')

All five gates start at zero, and then the logits are those of zero-shot CLIP, bit for bit. No weight
belongs to a class, so that new classes can be named later. "full" encodes N texts for each video
(ViT-B: 3 GMAC a text), a few at a time, and again in the backward pass instead of storing them.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evclip_ray.config import ConfigError
from evclip_ray.models.layers.class_text import Template, class_logits, class_texts
from evclip_ray.models.layers.frames import Normalization, read_frames
from evclip_ray.models.layers.motion_streams import CrossAttention, TwoStreams
from evclip_ray.models.layers.prompted_text import prompt_start, prompted_tokens, with_vectors
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch

Count = Annotated[int, Field(ge=1)]

_STD = 0.02
_SQUEEZE = 4


class MotionPromptsConfig(MethodConfig):
    """Motion prompts. `mode`: "full" encodes the class texts again for each video, "late" moves them.

    `num_vectors`: learned vectors before a class name; `depth`, `heads`: of each stream's transformer;
    `long_step`: frames of a long-term difference, T / 2 when None; `texts_at_once`: bounds memory.
    """

    name: Literal["motion_prompts"] = "motion_prompts"
    mode: Literal["full", "late"] = "full"
    num_vectors: Count = 8
    depth: Count = 1
    heads: Count = 8
    long_step: Count | None = None
    texts_at_once: Count = 64
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """The frames; the texts too where they are moved and not encoded anew."""
        declared: frozenset[Cacheable] = frozenset({"frame_features"})
        return declared | {"class_text"} if self.mode == "late" else declared

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "MotionPrompts":
        """The module; the class names are encoded here, once, and tokenised for the full mode.

        Raises:
            ConfigError: heads that do not divide D, or a long step that leaves no pair of frames.
        """
        if frozen.clip.embed_dim % self.heads:
            raise ConfigError(
                f"method.heads must divide the {frozen.clip.embed_dim} features of {frozen.clip.name}, "
                f"got {self.heads}"
            )
        if self.long_step is not None and self.long_step >= num_frames > 1:
            raise ConfigError(f"method.long_step must be less than {num_frames} frames, got {self.long_step}")
        tokens = None
        if self.mode == "full":
            tokens = prompted_tokens(frozen.clip, class_names, self.num_vectors)
        return MotionPrompts(
            frozen,
            text_features=frozen.clip.encode_text_raw(class_texts(class_names, self.template)),
            tokens=tokens,
            num_frames=num_frames,
            num_vectors=self.num_vectors,
            depth=self.depth,
            heads=self.heads,
            long_step=self.long_step or max(1, num_frames // 2),
            texts_at_once=self.texts_at_once,
            normalization=self.normalization,
        )


class MotionPrompts(Method):
    """Motion prompts over the classes of `text_features`, (N, D) un-normalised; the rest as in the config.

    `tokens`: (N, L) with room for the vectors, or None for the late mode.
    """

    caches = frozenset({"frame_features"})

    def __init__(
        self,
        frozen: Frozen,
        *,
        text_features: Tensor,
        tokens: Tensor | None,
        num_frames: int,
        long_step: int,
        num_vectors: int = 8,
        depth: int = 1,
        heads: int = 8,
        texts_at_once: int = 64,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        dim = frozen.clip.embed_dim
        self.streams = TwoStreams(dim, num_frames=num_frames, long_step=long_step, depth=depth, heads=heads)
        self.text_change: LateChange | PromptedChange
        if tokens is None:
            self.text_change = LateChange(dim)
            self.caches = frozenset({"class_text", "frame_features"})
        else:
            self.text_change = PromptedChange(
                frozen, tokens, num_vectors=num_vectors, texts_at_once=texts_at_once
            )
        self.to_video = CrossAttention(dim, heads)
        self.to_text = CrossAttention(dim, heads)
        self.gates = nn.ParameterDict(
            {name: torch.zeros(()) for name in ("space", "motion", "text", "to_video", "to_text")}
        )
        self.register_buffer("text_features", text_features, persistent=False)
        self.text_features: Tensor
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos, from cached frame features where the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization).float()
        gates = self.gates
        motion, space = self.streams(frames)
        tokens = frames + gates["space"] * space + gates["motion"] * motion
        video = tokens.mean(1)
        texts = self.text_features.expand(len(frames), -1, -1)
        texts = texts + gates["text"] * self.text_change(motion.mean(1), self.text_features)
        seen = torch.cat([video[:, None], tokens], dim=1)
        video_features = F.normalize(
            video + gates["to_video"] * self.to_video(video[:, None], texts)[:, 0], dim=-1
        )
        texts = texts + gates["to_text"] * self.to_text(texts, seen)
        return MethodOutput(
            logits=self._logits(video_features, F.normalize(texts, dim=-1)),
            frame_features=frames,
            video_features=video_features,
            extra={"motion": motion, "space": space},
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits, labels)}

    def _logits(self, video_features: Tensor, texts: Tensor) -> Tensor:
        # v.t' = v.t + v.(t' - t): the first product is zero-shot CLIP's own, so that texts that have
        # not moved give its logits exactly, which a product of another shape would not.
        start = F.normalize(self.text_features, dim=-1)
        moved = (video_features[:, None] * (texts - start)).sum(-1)
        clip = self.frozen.clip
        logits: Tensor = class_logits(clip, video_features, start) + clip.logit_scale * moved
        return logits


class LateChange(nn.Module):
    """(B, D) motion -> (B, 1, D), what the texts of every class are moved by: W m."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.move = nn.Linear(dim, dim)

    def forward(self, motion: Tensor, _text_features: Tensor) -> Tensor:
        """(B, D) -> (B, 1, D)."""
        moved: Tensor = self.move(motion)[:, None]
        return moved


class PromptedChange(nn.Module):
    """(B, D) motion, (N, D) texts -> (B, N, D): texts encoded anew with vectors of the motion, less the old.

    vectors of video b = shared + MLP(m_b), (P, W).
    """

    def __init__(self, frozen: Frozen, tokens: Tensor, *, num_vectors: int, texts_at_once: int) -> None:
        super().__init__()
        clip = frozen.clip
        self.tower = TextTower(clip.model, name=clip.name, method="motion_prompts (full)")
        width, dim = self.tower.width, clip.embed_dim
        self.shared = nn.Parameter(torch.randn(num_vectors, width) * _STD)
        self.learner = nn.Sequential(
            nn.Linear(dim, dim // _SQUEEZE), nn.GELU(), nn.Linear(dim // _SQUEEZE, num_vectors * width)
        )
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.start = prompt_start(clip)
        self.texts_at_once = texts_at_once

    def forward(self, motion: Tensor, text_features: Tensor) -> Tensor:
        """(B, D), (N, D) -> (B, N, D)."""
        num_videos, num_classes = len(motion), len(self.tokens)
        vectors = self.shared + self.learner(motion).unflatten(-1, self.shared.shape)
        pairs = torch.arange(num_videos * num_classes, device=motion.device)
        parts = [
            checkpoint(self._encode, vectors, some, use_reentrant=False)
            for some in pairs.split(self.texts_at_once)
        ]
        texts: Tensor = torch.cat(parts).float().unflatten(0, (num_videos, num_classes))
        return texts - text_features

    def _encode(self, vectors: Tensor, pairs: Tensor) -> Tensor:
        # Pair p is video p // N with class p % N.
        tokens = self.tokens[pairs % len(self.tokens)]
        words = with_vectors(self.tower.embed(tokens), vectors[pairs // len(self.tokens)], self.start)
        return self.tower.encode(words, tokens)
