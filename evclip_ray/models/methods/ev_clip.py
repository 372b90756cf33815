"""EV-CLIP: a mask over the frames and a context among their features, read from a frozen video network.

For a video x of T frames, with z the last map of the video network (arXiv 2604.22595):

    r_t = CLIP_image(mask(z) * x_t)                        frame features, un-normalised
    v   = L2(mean[context(z), r_1, ..., r_T])              eq. 14
    logits = exp(s) v . text                               "A video of {class}."
    loss = cross entropy + weight * consistency(r)

The mask multiplies *normalised* pixels: 0 is the mean colour, grey and not black.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from evclip_ray.config import Config
from evclip_ray.models.frozen import without_autocast
from evclip_ray.models.layers.class_text import Template, class_logits, class_texts, mean_feature
from evclip_ray.models.layers.context_prompt import ContextGenerator
from evclip_ray.models.layers.frames import Normalization, prepare_frames, read_frames
from evclip_ray.models.layers.gather import gather_rows
from evclip_ray.models.layers.mask_prompt import MaskGenerator
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch
from evclip_ray.models.released_ev_clip import import_published, load_published_state
from evclip_ray.models.video_encoder import FrozenVideoEncoder, map_size

__all__ = [
    "EVCLIP",
    "ContextConfig",
    "EVCLIPConfig",
    "MaskConfig",
    "VideoEncoderConfig",
    "consistency_loss",
    "import_published",
    "load_published_state",
]

Prompts = Literal["both", "mask", "context"]
Count = Annotated[int, Field(ge=1)]


class MaskConfig(Config):
    """Sizes of the mask generator (see MaskGenerator); the defaults are the published ones."""

    width: Count | None = None
    depth: Annotated[int, Field(ge=0)] = 2
    heads: Count = 8
    window: Count = 7
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0


class ContextConfig(Config):
    """Sizes of the context generator (see ContextGenerator); the defaults are the published ones."""

    tokens: Count = 1
    width: Count | None = None
    scale_init: float = 0.001


class VideoEncoderConfig(Config):
    """The frozen video network: a row of VIDEO_ENCODERS, and its weights: a tag, a file or "random"."""

    name: str = "swin3d_s"
    weights: str = "kinetics400"


class EVCLIPConfig(MethodConfig):
    """EV-CLIP; `normalization`: the colours of CLIP's input."""

    name: Literal["ev_clip"] = "ev_clip"
    prompts: Prompts = "both"
    mask: MaskConfig = MaskConfig()
    context: ContextConfig = ContextConfig()
    consistency_weight: Annotated[float, Field(ge=0)] = 0.1
    template: Template = "A video of {}."
    normalization: Normalization = "own"
    video_encoder: VideoEncoderConfig = VideoEncoderConfig()

    @property
    def needs_video_encoder(self) -> bool:
        """Both prompts are read from it."""
        return True

    @property
    def caches(self) -> frozenset[Cacheable]:
        """The map; with a mask the pixels change at every step, and the frame features with them."""
        return _declared(self.prompts)

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "EVCLIP":
        """The module; the class names are encoded here, once."""
        return EVCLIP(
            frozen,
            text_features=frozen.clip.encode_text(class_texts(class_names, self.template)),
            num_frames=num_frames,
            prompts=self.prompts,
            mask_width=self.mask.width,
            mask_depth=self.mask.depth,
            mask_heads=self.mask.heads,
            mask_window=self.mask.window,
            mask_mlp_ratio=self.mask.mlp_ratio,
            context_tokens=self.context.tokens,
            context_width=self.context.width,
            context_scale_init=self.context.scale_init,
            consistency_weight=self.consistency_weight,
            normalization=self.normalization,
        )


class EVCLIP(Method):
    """EV-CLIP over the classes of `text_features`, (N, D) L2-normalised; other keywords as in the configs."""

    needs_video_encoder = True

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
                map_size=map_size(encoder.image_size),
                num_frames=num_frames,
                width=mask_width,
                depth=mask_depth,
                heads=mask_heads,
                window=mask_window,
                mlp_ratio=mask_mlp_ratio,
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
        self.caches = _declared(prompts)

    @property
    def _encoder(self) -> FrozenVideoEncoder:
        if self.frozen.video_encoder is None:
            raise ValueError("EV-CLIP reads its prompts from a video encoder; none was given")
        return self.frozen.video_encoder

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos; `pixels` may be None if the cached features are sufficient."""
        video_map = self._video_map(batch)
        mask = None
        if self.mask_generator is not None:
            mask = _resized(self.mask_generator(video_map), self.frozen.clip.image_size)
        frames = self._frame_features(batch, mask)
        context = None if self.context_generator is None else self.context_generator(video_map)
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
        """`cross_entropy`, and `consistency` where a mask can change it."""
        terms = {"cross_entropy": F.cross_entropy(output.logits, labels)}
        if self.mask_generator is not None and self.consistency_weight > 0:
            assert output.frame_features is not None
            terms["consistency"] = self.consistency_weight * consistency_loss(output.frame_features)
        return terms

    def _video_map(self, batch: VideoBatch) -> Tensor:
        if batch.video_map is not None:
            return batch.video_map
        if batch.pixels is None:
            raise ValueError("EV-CLIP reads a video from pixels or from a cached map; the batch has neither")
        video_map: Tensor = self._encoder(self._encoder.prepare(batch.pixels))
        return video_map

    def _frame_features(self, batch: VideoBatch, mask: Tensor | None) -> Tensor:
        if mask is None:
            return read_frames(self.frozen.clip, batch, self.normalization)
        images = prepare_frames(self.frozen.clip, batch.pixels, self.normalization)
        return self.frozen.clip.encode_frames(images * mask[:, None, None])


def _declared(prompts: Prompts) -> frozenset[Cacheable]:
    declared: frozenset[Cacheable] = frozenset({"class_text", "video_map"})
    # A mask changes the pixels, hence the frame features, at every step, and it reads the map's places.
    return declared | {"frame_features", "video_mean"} if prompts == "context" else declared


def consistency_loss(frame_features: Tensor) -> Tensor:
    """(B, T, D) -> a number that is 0 when the frames of a video agree.

    -mean_ij log((1 + mean_b cos(r_i, r_j)) / 2) over all pairs of the T frames, i = j included: the
    cosines are averaged over the batch *before* the logarithm. Worked: orthogonal frames, T = 8:
    (1 - 1/8) ln 2 = 0.6065.
    """
    frames = F.normalize(frame_features.float(), dim=-1)
    with without_autocast(frames.device):
        cosines = gather_rows(frames @ frames.transpose(1, 2)).mean(0)
    # Clamped for frames that oppose each other exactly, whose loss is infinite.
    agreement = ((cosines + 1) / 2).clamp(min=torch.finfo(cosines.dtype).eps)
    return -agreement.log().mean()


def _resized(mask: Tensor, size: int) -> Tensor:
    if mask.shape[-2:] == (size, size):
        return mask
    return F.interpolate(mask[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
