"""CoOp (Zhou et al. 2022, arXiv 2109.01134): learned vectors in place of the words before a class name.

    text_c   = CLIP_text([start] v_1 ... v_P [name of c] . [end])
    logits_c = exp(s) L2(mean_t r_t) . L2(text_c)

where
    v_p      learned word vectors, (W,); shared by the classes, or separate for each class
    r_t      frame feature of frame t, (D,), un-normalised
    exp(s)   logit scale of CLIP

CoOp was published for images; the mean over frames is ours. Vectors start at N(0, 0.02), as published.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import TextClassifier, class_logits, mean_feature
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.layers.prompted_text import prompt_start, prompted_tokens, with_vectors
from evclip_ray.models.layers.text_cache import TextFeatureCache, encode_in_chunks
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.coop import CoOpConfig
from evclip_ray.models.setting_types import Normalization

_STD = 0.02


class CoOp(Method):
    """CoOp. Trains `vectors`, (1 or N, P, W).

    Args:
        frozen: Frozen networks.
        tokens: (N, L) int64, from `prompted_tokens`.
        num_vectors: As in the config.
        class_specific: As in the config.
        normalization: As in the config.
    """

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
        # One set of vectors is expanded to all classes, whose gradients then add up.
        sets = len(tokens) if class_specific else 1
        self.vectors = nn.Parameter(torch.randn(sets, num_vectors, self.text_tower.width) * _STD)
        # A buffer moves with the module. Not persistent: it follows from the class names.
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.class_specific = class_specific
        self.normalization = normalization
        self.text_cache = TextFeatureCache()

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos. Cached frame features are used if the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        video_features = mean_feature(frames)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, self._texts()),
            frame_features=frames,
            video_features=video_features,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits, labels)}

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names; None with vectors for each class."""
        return None if self.class_specific else TextClassifier.of(self.frozen.clip, self._texts())

    def _texts(self) -> Tensor:
        # Only the vectors change, so the texts are cached in evaluation until the next optimiser step.
        return self.text_cache([self.vectors], self._text_features)

    def _text_features(self) -> Tensor:
        return encode_in_chunks(self._encode, self.tokens, self.vectors.expand(len(self.tokens), -1, -1))

    def _encode(self, tokens: Tensor, vectors: Tensor) -> Tensor:
        # (M, L, W), with the placeholders replaced by the vectors (M, P, W).
        words = with_vectors(self.text_tower.embed(tokens), vectors, prompt_start(self.frozen.clip))
        return F.normalize(self.text_tower.encode(words, tokens).float(), dim=-1)


def build(
    config: CoOpConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> CoOp:
    """Return the module. Class names are tokenised here and encoded in every step."""
    return CoOp(
        frozen,
        tokens=prompted_tokens(frozen.clip, class_names, config.num_vectors),
        num_vectors=config.num_vectors,
        class_specific=config.class_specific,
        normalization=config.normalization,
    )
