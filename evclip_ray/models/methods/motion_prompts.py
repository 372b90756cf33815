"""Motion prompts: the motion of a video determines the words around the class names.

Our reconstruction of "Seeing in Flowing" (arXiv 2308.04828). The paper names its parts but publishes neither
equations nor sizes nor code, so the equations below are ours:

    M, S  = motion and space streams of f                            two-stream motion modelling block
    f'_t  = f_t + g1 S_t + g2 M_t,   v = mean_t f'_t
    t_bc  = t_c + g3 (CLIP_text([start] ctx + pi(mean M) [c .]) - t_c)    dynamic prompts ("full")
    t_bc  = t_c + g3 W mean M                                             or without text tower ("late")
    v'    = v + g4 CA(v <- t_b),   t' = t_b + g5 CA(t_b <- v, f')    multimodal communication block
    logits = exp(s) L2(v') . L2(t')

where
    f_t      frame feature of frame t, (D,), un-normalised
    t_c      text feature of the template filled with the name of class c, (D,), un-normalised
    g1..g5   trained gates, scalars
    ctx, pi  trained vectors (P, W), and an MLP from (D,) to (P, W)
    W        trained matrix (D, D)
    CA       trained cross-attention

All gates start at zero, where the logits equal those of zero-shot CLIP bit for bit. No weight belongs to a
class, so new classes can be added later. "full" encodes N texts per video (ViT-B: 3 GMAC per text) in chunks,
and encodes them again in the backward pass instead of storing their activations.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted
from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import class_logits, class_texts
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.layers.motion_streams import CrossAttention, TwoStreams
from evclip_ray.models.layers.prompted_text import prompt_start, prompted_tokens, with_vectors
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.motion_prompts import MotionPromptsConfig
from evclip_ray.models.setting_types import Normalization

_STD = 0.02
_SQUEEZE = 4


class MotionPrompts(Method):
    """Motion prompts.

    Args:
        frozen: Frozen networks.
        text_features: (N, D), un-normalised.
        tokens: (N, L) int64 with P placeholders, from `prompted_tokens`; None selects mode "late".
        num_frames: T; the time embedding binds the method to it.
        long_step: As in the config, not None.
        num_vectors: As in the config.
        depth: As in the config.
        heads: As in the config.
        texts_at_once: As in the config.
        normalization: As in the config.
    """

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
        else:
            self.text_change = PromptedChange(
                frozen, tokens, num_vectors=num_vectors, texts_at_once=texts_at_once
            )
        self.to_video = CrossAttention(dim, heads)
        self.to_text = CrossAttention(dim, heads)
        self.gates = nn.ParameterDict(
            # The first gradient reaches the gates only: every other new part has a zero factor behind it.
            {name: torch.zeros(()) for name in ("space", "motion", "text", "to_video", "to_text")}
        )
        self.register_buffer("text_features", text_features, persistent=False)
        self.text_features: Tensor
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos. Cached frame features are used if the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization).float()
        gates = self.gates
        motion, space = self.streams(frames)
        tokens = frames + gates["space"] * space + gates["motion"] * motion
        video = tokens.mean(1)
        # (N, D) -> (B, N, D): each video gets texts of its own.
        texts = self.text_features.expand(frames.shape[0], -1, -1)
        texts = texts + gates["text"] * self.text_change(motion.mean(1), self.text_features)
        # (B, 1 + T, D): a text attends to the video as a whole and to its frames.
        video_and_frames = torch.cat([video[:, None], tokens], dim=1)
        video_features = F.normalize(
            video + gates["to_video"] * self.to_video(video[:, None], texts)[:, 0], dim=-1
        )
        texts = texts + gates["to_text"] * self.to_text(texts, video_and_frames)
        return MethodOutput(
            logits=self._logits(video_features, F.normalize(texts, dim=-1)),
            frame_features=frames,
            video_features=video_features,
            extra={"motion": motion, "space": space},
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits, labels)}

    def _logits(self, video_features: Tensor, texts: Tensor) -> Tensor:
        # v.t' = v.t + v.(t' - t). The first product is that of zero-shot CLIP, so unchanged texts give its
        # logits exactly; one batched product with t' would round differently.
        start = F.normalize(self.text_features, dim=-1)
        moved = (video_features[:, None] * (texts - start)).sum(-1)
        clip = self.frozen.clip
        logits: Tensor = class_logits(clip, video_features, start) + clip.logit_scale * moved
        return logits


class LateChange(nn.Module):
    """Shift of all class texts in mode "late": W m."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.move = nn.Linear(dim, dim)

    def forward(self, motion: Tensor, _text_features: Tensor) -> Tensor:
        """Map the motion (B, D) to a shift (B, 1, D), the same for every class."""
        moved: Tensor = self.move(motion)[:, None]
        return moved


class PromptedChange(nn.Module):
    """Change of the class texts in mode "full": prompted texts minus those of the template.

    The vectors of video b are shared + MLP(m_b), (P, W).

    Args:
        frozen: Frozen networks.
        tokens: (N, L) int64, from `prompted_tokens`.
        num_vectors: P.
        texts_at_once: Texts per chunk.
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
        """Return the change (B, N, D) for the motion (B, D) and the texts (N, D)."""
        num_videos, num_classes = motion.shape[0], len(self.tokens)
        # (B, P W) -> (B, P, W)
        vectors = self.shared + self.learner(motion).unflatten(-1, self.shared.shape)
        pairs = torch.arange(num_videos * num_classes, device=motion.device)
        if torch.compiler.is_exporting():
            # The number of chunks depends on the batch, so an exported graph has a single one.
            encoded = self._encode(vectors, pairs)
        else:
            parts = [
                # The activations of B N texts would not fit in memory: the backward pass computes each chunk
                # again.
                checkpoint(self._encode, vectors, chunk, use_reentrant=False)
                for chunk in pairs.split(self.texts_at_once)
            ]
            encoded = torch.cat(parts)
        texts: Tensor = encoded.float().unflatten(0, (num_videos, num_classes))
        return texts - text_features

    def _encode(self, vectors: Tensor, pairs: Tensor) -> Tensor:
        # Pair p is video p // N with class p % N.
        tokens = self.tokens[pairs % len(self.tokens)]
        words = with_vectors(self.tower.embed(tokens), vectors[pairs // len(self.tokens)], self.start)
        return self.tower.encode(words, tokens)


def build(
    config: MotionPromptsConfig,
    frozen: Frozen,
    *,
    class_names: Sequence[str],
    num_frames: int,
    image_size: int,
) -> MotionPrompts:
    """Return the module. The class names are encoded here, once, and tokenised for mode "full".

    Raises:
        ConfigError: `heads` does not divide D, or `long_step` is at least T.
    """
    if frozen.clip.embed_dim % config.heads:
        raise ConfigError(
            f"method.heads must divide the {frozen.clip.embed_dim} features of {frozen.clip.name}, "
            f"got {config.heads}"
        )
    if config.long_step is not None and config.long_step >= num_frames > 1:
        raise ConfigError(
            f"method.long_step must be less than {counted(num_frames, 'frame')}, got {config.long_step}"
        )
    tokens = None
    if config.mode == "full":
        tokens = prompted_tokens(frozen.clip, class_names, config.num_vectors)
    return MotionPrompts(
        frozen,
        text_features=frozen.clip.encode_text_raw(class_texts(class_names, config.template)),
        tokens=tokens,
        num_frames=num_frames,
        num_vectors=config.num_vectors,
        depth=config.depth,
        heads=config.heads,
        long_step=config.long_step or max(1, num_frames // 2),
        texts_at_once=config.texts_at_once,
        normalization=config.normalization,
    )
