"""EV-CLIP (arXiv 2604.22595): a mask prompt and a context prompt, read from a frozen video encoder.

    r_t    = CLIP_image(mask(z) * x_t)
    v      = L2(mean[context(z), r_1, ..., r_T])           eq. 14
    logits_c = exp(s) v . text_c
    loss   = cross entropy + consistency_weight * consistency(r)

where
    x_t      frame t, normalised, (3, S, S)
    z        last map of the frozen video encoder, (D_z, T/2, h, w)
    mask     trained generator, (S, S) in [0, 1], one per video: `MaskGenerator`
    context  trained generator, (P, D): `ContextGenerator`
    r_t      frame feature, (D,), un-normalised
    text_c   L2-normalised text feature of "A video of {class}."
    exp(s)   logit scale of CLIP

The mask multiplies normalised pixels, so 0 gives the mean colour (grey), not black. The code released by the
authors normalises CLIP's input by ImageNet's statistics; `normalization: imagenet` reproduces that.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.frozen import without_autocast
from evclip_ray.models.layers.class_text import (
    TextClassifier,
    class_logits,
    class_texts,
    mean_feature,
)
from evclip_ray.models.layers.context_prompt import ContextGenerator
from evclip_ray.models.layers.frames import prepare_frames, read_frames
from evclip_ray.models.layers.gather import gather_rows
from evclip_ray.models.layers.mask_prompt import MaskGenerator
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.ev_clip import EVCLIPConfig, Prompts
from evclip_ray.models.setting_types import MaskStart, Normalization
from evclip_ray.models.video_encoder import FrozenVideoEncoder, map_size


class EVCLIP(Method):
    """EV-CLIP. Trains `mask_generator` and `context_generator`; either may be None.

    Args:
        frozen: Frozen networks, with a video encoder.
        text_features: (N, D), L2-normalised.
        num_frames: T; the mask generator has weights over time and is bound to it.
        prompts: As in the config.
        mask_width: As `mask.width` in the config.
        mask_depth: As `mask.depth` in the config.
        mask_heads: As `mask.heads` in the config.
        mask_window: As `mask.window` in the config.
        mask_mlp_ratio: As `mask.mlp_ratio` in the config.
        mask_start: As `mask.start` in the config.
        context_tokens: As `context.tokens` in the config.
        context_width: As `context.width` in the config.
        context_scale_init: As `context.scale_init` in the config.
        consistency_weight: As in the config.
        normalization: As in the config.
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        text_features: Tensor,
        num_frames: int,
        prompts: Prompts = "both",
        mask_width: int | None = None,
        mask_depth: int = 2,
        mask_heads: int = 8,
        mask_window: int = 7,
        mask_mlp_ratio: float = 4.0,
        mask_start: MaskStart = "published",
        context_tokens: int = 1,
        context_width: int | None = None,
        context_scale_init: float = 0.001,
        consistency_weight: float = 0.1,
        normalization: Normalization = "own",
    ) -> None:
        super().__init__(frozen)
        encoder = self._encoder
        self.mask_generator = self.context_generator = None
        if prompts != "context":
            self.mask_generator = MaskGenerator(
                encoder.dim,
                map_size=map_size(encoder.image_size, encoder.stride),
                stride=encoder.stride,
                num_frames=num_frames,
                width=mask_width,
                depth=mask_depth,
                heads=mask_heads,
                window=mask_window,
                mlp_ratio=mask_mlp_ratio,
                start=mask_start,
            )
        if prompts != "mask":
            self.context_generator = ContextGenerator(
                encoder.dim,
                frozen.clip.embed_dim,
                tokens=context_tokens,
                width=context_width,
                scale_init=context_scale_init,
            )
        self.register_buffer("text_features", text_features, persistent=False)
        self.text_features: Tensor
        self.consistency_weight = consistency_weight
        self.normalization = normalization

    @property
    def _encoder(self) -> FrozenVideoEncoder:
        if self.frozen.video_encoder is None:
            raise ValueError("EV-CLIP needs a video encoder, got none; pass Frozen(clip, video_encoder)")
        return self.frozen.video_encoder

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos; `pixels` may be None if the cached features are sufficient."""
        video_map = self._video_map(batch)
        mask = None
        if self.mask_generator is not None:
            # The mask has the video network's image size, which a backbone with another one needs resampled.
            mask = _resized(self.mask_generator(video_map), self.frozen.clip.image_size)
        frames = self._frame_features(batch, mask)
        context = None if self.context_generator is None else self.context_generator(video_map)
        # (B, P + T, D): the context enters the mean as P more frames, eq. 14.
        tokens = frames if context is None else torch.cat([context.float(), frames.float()], dim=1)
        video_features = mean_feature(tokens)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, self.text_features),
            frame_features=frames,
            video_features=video_features,
            mask=mask,
            context=context,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy`, and `consistency` if there is a mask and its weight is positive."""
        terms = {"cross_entropy": F.cross_entropy(output.logits, labels)}
        if self.mask_generator is not None and self.consistency_weight > 0:
            assert output.frame_features is not None
            terms["consistency"] = self.consistency_weight * consistency_loss(output.frame_features)
        return terms

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names."""
        return TextClassifier.of(self.frozen.clip, self.text_features)

    def scalars(self) -> dict[str, float]:
        """Return the trained scalars, with the strength g of an open mask in place of its logit."""
        scalars = super().scalars()
        if self.mask_generator is not None and self.mask_generator.strength is not None:
            del scalars["mask_generator.strength_logit"]
            scalars["mask_generator.strength"] = self.mask_generator.strength.item()
        return scalars

    def _video_map(self, batch: VideoBatch) -> Tensor:
        if batch.video_map is not None:
            return batch.video_map
        if batch.pixels is None:
            raise ValueError("EV-CLIP needs pixels or a cached video map; the batch has neither")
        # Not under no_grad: the frozen encoder has no trained input, so autograd records nothing here.
        video_map: Tensor = self._encoder(self._encoder.prepare(batch.pixels))
        return video_map

    def _frame_features(self, batch: VideoBatch, mask: Tensor | None) -> Tensor:
        if mask is None:
            return read_frames(self.frozen.clip, batch, self.normalization)
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        # (B, S, S) -> (B, 1, 1, S, S): one mask for all frames and colours of a video.
        return self.frozen.clip.encode_frames(images * mask[:, None, None])


def consistency_loss(frame_features: Tensor) -> Tensor:
    """Return the consistency loss of EV-CLIP; 0 if all frames of a video have the same direction.

        -mean_ij log((1 + mean_b cos(r_bi, r_bj)) / 2)

    over all pairs of the T frames, i = j included. The cosines are averaged over the batch before the
    logarithm. Orthogonal frames with T = 8 give (1 - 1/8) ln 2 = 0.6065.

    Args:
        frame_features: (B, T, D); their length does not matter.
    """
    frames = F.normalize(frame_features.float(), dim=-1)
    with without_autocast(frames.device):
        # Gathered before the mean: the logarithm of a mean is not the mean of the workers' logarithms.
        cosines = gather_rows(frames @ frames.transpose(1, 2)).mean(0)
    # Opposite frames have agreement 0 and an infinite loss; the clamp keeps it and its gradient finite.
    agreement = ((cosines + 1) / 2).clamp(min=torch.finfo(cosines.dtype).eps)
    return -agreement.log().mean()


def _resized(mask: Tensor, size: int) -> Tensor:
    if mask.shape[-2:] == (size, size):
        return mask
    # Bilinear weights are positive and sum to 1, so the mask stays in [0, 1].
    return F.interpolate(mask[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def build(
    config: EVCLIPConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> EVCLIP:
    """Return the module. The class names are encoded here, once."""
    return EVCLIP(
        frozen,
        text_features=frozen.clip.encode_text(class_texts(class_names, config.template)),
        num_frames=num_frames,
        prompts=config.prompts,
        mask_width=config.mask.width,
        mask_depth=config.mask.depth,
        mask_heads=config.mask.heads,
        mask_window=config.mask.window,
        mask_mlp_ratio=config.mask.mlp_ratio,
        mask_start=config.mask.start,
        context_tokens=config.context.tokens,
        context_width=config.context.width,
        context_scale_init=config.context.scale_init,
        consistency_weight=config.consistency_weight,
        normalization=config.normalization,
    )
