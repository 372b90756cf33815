"""CoOp: the words around a class name are learned vectors (arXiv 2109.01134), on the mean of frames.

    text_c = CLIP_text([start] v_1 ... v_P [name of c .] [end])
    logits = exp(s) L2(mean_t r_t) . L2(text_c)

The vectors are shared by the classes, or each class has its own.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evclip_ray.models.layers.class_text import class_logits, mean_feature
from evclip_ray.models.layers.frames import Normalization, read_frames
from evclip_ray.models.layers.prompted_text import prompt_start, prompted_tokens, with_vectors
from evclip_ray.models.layers.text_cache import TextMemo
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch

_STD = 0.02


class CoOpConfig(MethodConfig):
    """CoOp. `num_vectors`: P; `class_specific`: each class learns its own (no new class can be named)."""

    name: Literal["coop"] = "coop"
    num_vectors: Annotated[int, Field(ge=1)] = 16
    class_specific: bool = False
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """The texts change at every step, the frames never."""
        return CoOp.caches

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "CoOp":
        """The module; class names are tokenised here and encoded in every step."""
        return CoOp(
            frozen,
            tokens=prompted_tokens(frozen.clip, class_names, self.num_vectors),
            num_vectors=self.num_vectors,
            class_specific=self.class_specific,
            normalization=self.normalization,
        )


class CoOp(Method):
    """CoOp over the classes of `tokens`, (N, L), as `prompted_tokens` gives them.

    `vectors`: (1 or N, P, W), N(0, 0.02).
    """

    caches = frozenset({"frame_features"})

    def __init__(
        self,
        frozen: Frozen,
        *,
        tokens: Tensor,
        num_vectors: int = 16,
        class_specific: bool = False,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        self.text_tower = TextTower(clip.model, name=clip.name, method="coop")
        sets = len(tokens) if class_specific else 1
        self.vectors = nn.Parameter(torch.randn(sets, num_vectors, self.text_tower.width) * _STD)
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.normalization = normalization
        self.memo = TextMemo()

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos, from cached frame features where the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        video_features = mean_feature(frames)
        text_features = self.memo([self.vectors], self._text_features)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, text_features),
            frame_features=frames,
            video_features=video_features,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits, labels)}

    def _text_features(self) -> Tensor:
        words = self.text_tower.embed(self.tokens)
        vectors = self.vectors.expand(len(words), -1, -1)
        words = with_vectors(words, vectors, prompt_start(self.frozen.clip))
        return F.normalize(self.text_tower.encode(words, self.tokens).float(), dim=-1)
