"""Full fine-tuning as in ViFi-CLIP (Rasheed et al. 2023, arXiv 2212.03640).

    logits_c = exp(s) L2(mean_t r_t) . L2(text_c)
    loss     = cross entropy over all classes

where
    r_t      frame feature of frame t, (D,), un-normalised
    text_c   text feature of class c, encoded in every step
    s        logarithm of the logit scale

Both towers and s are trained; the word-embedding table stays frozen. ViT-B/16 trains 124,323,841 parameters.
The towers are a copy, so the frozen CLIP keeps its weights and the checkpoint contains the copy only. The
copy stays in evaluation mode, because batch statistics of a few videos are unreliable. ViFi-CLIP also uses
mixup 0.8 and cutmix 1.0 (here `data.augment.mixup`) and label smoothing 0.1 (`label_smoothing`).
"""

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import (
    TextClassifier,
    class_texts,
    mean_feature,
    scaled_cosines,
)
from evclip_ray.models.layers.frames import prepare_frames
from evclip_ray.models.layers.text_cache import TextFeatureCache, encode_in_chunks
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.fine_tune import FineTuneConfig
from evclip_ray.models.setting_types import Normalization


class FineTune(Method):
    """Fine-tuned CLIP. Trains `model`, a copy of CLIP without its word-embedding table.

    Args:
        frozen: Frozen networks.
        tokens: (N, L) int64, tokenised class texts.
        label_smoothing: As in the config.
        normalization: As in the config.
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        tokens: Tensor,
        label_smoothing: float = 0.0,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        clip = frozen.clip
        # Word embeddings are read from the frozen CLIP.
        self.words = TextTower(clip.model, name=clip.name, method="fine_tune")
        self.model: Any = copy.deepcopy(clip.model).float().requires_grad_(True)
        self.text_tower = TextTower(self.model, name=clip.name, method="fine_tune")
        # Removed from the copy, so that neither the optimiser nor the checkpoint contains the table.
        del self.text_tower.text.token_embedding
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.label_smoothing = label_smoothing
        self.normalization = normalization
        self.text_cache = TextFeatureCache()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the method. The towers stay in evaluation mode."""
        super().train(mode)
        # Batch norm of a ResNet keeps its statistics; gradients flow all the same.
        self.model.eval()
        return self

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos over all classes."""
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        # The copy's own towers: `frozen.clip` would give features without gradients for the weights.
        # Float32 while it is trained; an export may have an image tower in half precision.
        images = images.to(next(self.model.visual.parameters()).dtype)
        frames = self.model.visual(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        video_features = mean_feature(frames)
        logits = scaled_cosines(
            video_features, self._texts(), scale=self.model.logit_scale.exp(), bias=self.model.logit_bias
        )
        return MethodOutput(logits=logits, frame_features=frames, video_features=video_features)

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes, with smoothed labels if `label_smoothing` is positive."""
        loss = F.cross_entropy(output.logits.float(), labels, label_smoothing=self.label_smoothing)
        return {"cross_entropy": loss}

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names."""
        bias = self.model.logit_bias
        return TextClassifier(
            self._texts(), float(self.model.logit_scale.exp()), None if bias is None else float(bias)
        )

    def _texts(self) -> Tensor:
        return self.text_cache(self._text_parameters(), self._text_features)

    def _text_parameters(self) -> list[nn.Parameter]:
        # Everything but the image tower, which has two thirds of the weights and does not touch the texts.
        return [value for name, value in self.model.named_parameters() if not name.startswith("visual.")]

    def _text_features(self) -> Tensor:
        return encode_in_chunks(self._encode, self.tokens)

    def _encode(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.text_tower.encode(self.words.embed(tokens), tokens).float(), dim=-1)


def build(
    config: FineTuneConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> FineTune:
    """Return the module. Class texts are tokenised here and encoded in every step."""
    return FineTune(
        frozen,
        tokens=frozen.clip.tokenize(class_texts(class_names, config.template)),
        label_smoothing=config.label_smoothing,
        normalization=config.normalization,
    )
