"""Full fine-tuning in ViFi-CLIP's manner (arXiv 2212.03640): both towers and the logit scale train.

    logits = exp(s) L2(mean_t r_t) . L2(text_c)            cross entropy over all classes

The table of word embeddings stays frozen: 124,323,841 parameters train on ViT-B/16. The towers are a
copy, so that the frozen CLIP beside them stays what it was; a checkpoint holds the copy, which is
what the method trains. It stays in evaluation mode: batch statistics of a few videos are no use.
Published with mixup 0.8, cutmix 1.0 and label smoothing 0.1, of which the last is here.
"""

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from evclip_ray.models.layers.class_text import Template, class_texts, mean_feature
from evclip_ray.models.layers.frames import Normalization, prepare_frames
from evclip_ray.models.layers.text_cache import TextMemo
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Frozen, Method, MethodConfig, MethodOutput, VideoBatch


class FineTuneConfig(MethodConfig):
    """Full fine-tuning; its learning rate is a hundredth of a prompt's, 2e-6 to 8e-6 as published."""

    name: Literal["fine_tune"] = "fine_tune"
    template: Template = "a photo of a {}."
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    normalization: Normalization = "own"

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "FineTune":
        """The module; class texts are tokenised here and encoded in every step."""
        return FineTune(
            frozen,
            tokens=frozen.clip.tokenize(class_texts(class_names, self.template)),
            label_smoothing=self.label_smoothing,
            normalization=self.normalization,
        )


class FineTune(Method):
    """Fine-tuned CLIP over the classes of `tokens`, (N, L) int64; `model`: the copy that trains."""

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
        self.words = TextTower(clip.model, name=clip.name, method="fine_tune")
        self.model: Any = copy.deepcopy(clip.model).float().requires_grad_(True)
        self.text_tower = TextTower(self.model, name=clip.name, method="fine_tune")
        del self.text_tower.text.token_embedding
        self.register_buffer("tokens", tokens, persistent=False)
        self.tokens: Tensor
        self.label_smoothing = label_smoothing
        self.normalization = normalization
        self.memo = TextMemo()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the method, never of the towers."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos over all classes."""
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        frames = self.model.visual(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        video_features = mean_feature(frames)
        text_features = self.memo(self.parameters(), self._text_features)
        logits = self.model.logit_scale.exp() * video_features @ text_features.T
        if self.model.logit_bias is not None:
            logits = logits + self.model.logit_bias
        return MethodOutput(logits=logits, frame_features=frames, video_features=video_features)

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` over all classes, with smoothed labels where asked for."""
        loss = F.cross_entropy(output.logits.float(), labels, label_smoothing=self.label_smoothing)
        return {"cross_entropy": loss}

    def _text_features(self) -> Tensor:
        texts = self.text_tower.encode(self.words.embed(self.tokens), self.tokens)
        return F.normalize(texts.float(), dim=-1)
