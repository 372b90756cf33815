"""Settings of EV-CLIP, and its conformance cases. The network is in `methods/ev_clip.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from evclip_ray.config import Config
from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import MaskStart, Normalization, Template
from evclip_ray.models.swin3d import find_video_encoder

Prompts = Literal["both", "mask", "context"]
Count = Annotated[int, Field(ge=1)]


class MaskConfig(Config):
    """Settings of the mask generator, explained in `MaskGenerator`. The defaults are the published ones.

    Attributes:
        width: Channels, a multiple of 16 whose quarter is a multiple of `heads`. None takes D_z / 2, rounded
            up to such a number.
        depth: Swin blocks per stage; 0 removes them.
        heads: Attention heads.
        window: Side of an attention window, in positions of the map.
        mlp_ratio: Hidden width of an MLP relative to its input.
        start: "published" starts as noise. "open" (ours) is 1 - g (1 - mask) with a trained g that starts at
            0.5; it is better on a small CLIP, whose accuracy noise takes to chance. Use it with
            `optim.scalar_lr_factor` 30, or 10 for the mask alone.
    """

    width: Count | None = None
    depth: Annotated[int, Field(ge=0)] = 2
    heads: Count = 8
    window: Count = 7
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    # Left out of dumps at its default, so that digests and checkpoints of earlier versions stay equal.
    start: MaskStart = Field("published", exclude_if=lambda value: value == "published")


class ContextConfig(Config):
    """Sizes of the context generator, explained in `ContextGenerator`. The defaults are the published ones.

    Attributes:
        tokens: P; more tokens give the context more weight in the mean over P + T tokens.
        width: Channels of an additional hidden layer; None for none.
        scale_init: Initial scale; at 0.001 training starts close to zero-shot CLIP.
    """

    tokens: Count = 1
    width: Count | None = None
    scale_init: float = 0.001


class VideoEncoderConfig(Config):
    """The frozen video encoder.

    Attributes:
        name: Row of `VIDEO_ENCODERS`; it decides D_z and most of the cost of a video.
        weights: Tag of the row, a local file, or "random" (for tests only).
    """

    name: str = "swin3d_s"
    weights: str = "kinetics400"

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        find_video_encoder(name)
        return name


class EVCLIPConfig(MethodConfig):
    """Settings of EV-CLIP.

    Attributes:
        prompts: "both", "mask" or "context". Only "context" can read cached frame features.
        mask: Settings of the mask generator; unused with "context".
        context: Sizes of the context generator; unused with "mask".
        consistency_weight: Weight of the consistency loss; 0 removes it. Unused with "context".
        template: Sentence with one gap {} for the class name.
        normalization: "own" normalises pixels by CLIP's statistics, "imagenet" by those of the release.
        video_encoder: The frozen video encoder.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.ev_clip"
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
        """True: both prompts are generated from its map."""
        return True

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts and the map. A mask changes the pixels, hence the frame features, in every step."""
        declared: frozenset[Cacheable] = frozenset({"class_text", "video_map"})
        # A mask reads single positions of the map; the context reads its mean alone.
        return declared | {"frame_features", "video_mean"} if self.prompts == "context" else declared


# A context starts at a thousandth of a frame feature and needs a larger learning rate in 20 steps.
METHOD_CASES = (
    MethodCase(num_trainable=169746, num_frames=(2, 8)),
    MethodCase(num_trainable=161425, label="mask", settings={"prompts": "mask"}, num_frames=(2, 8)),
    MethodCase(
        num_trainable=8321,
        label="context",
        settings={"prompts": "context"},
        num_frames=(2, 8),
        learning_rate=5e-2,
    ),
)
