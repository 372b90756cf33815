"""The experiment: every setting of one run, as one validated tree.

`ExperimentConfig` plus overrides is a run. The sections are the floors of the house: which videos
(`data`, `view`), which frozen CLIP (`backbone`), which adaptation (`method`), how it is trained
(`optim`), and the run's `seed` and `precision`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from evclip_ray.config import Config, ConfigError, nearest, override, read_yaml
from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.models.methods.base import MethodConfig

PRESETS: dict[str, dict[str, Any]] = {
    # The published EV-CLIP recipe for UCF101, HMDB51 and EGTEA at 8 frames (learning rate scales
    # with the batch: 4e-4 at 64): crops without flips, one-epoch constant warm-up, cosine by epoch.
    "published": {
        "view.sampling": "window",
        "view.window_frames": 32,
        "view.height": 256,
        "view.width": 340,
        "view.fit": "stretch",
        "method.template": "A video of {}.",
        "method.normalization": "imagenet",
        "data.augment.crop": "random",
        "data.augment.flip": 0.0,
        "optim.schedule": "cosine_by_epoch",
        "optim.lr": 4e-4,
        "optim.warmup_lr": 2e-5,
        "optim.warmup_epochs": 1,
        "optim.weight_decay": 0.05,
        "optim.epochs": 500,
        "optim.batch_size": 64,
        "optim.clip_norm": None,
        "precision": "float32",
    },
}


class SyntheticConfig(Config):
    """The quickstart's own video set: made on the spot, real mp4 files."""

    videos_per_class: int = Field(24, ge=5)
    size: int = Field(96, ge=32, description="side in pixels")
    num_frames: int = Field(24, ge=4)


class DataConfig(Config):
    """Which videos, and which of them train and select."""

    manifest: str | None = Field(None, description="CSV, Parquet, or a folder of class folders")
    root: str | None = Field(None, description="folder the manifest's paths are relative to")
    synthetic: SyntheticConfig | None = None
    classes: str | None = Field(
        None, description="'base' (the more frequent half), 'novel' (the rest) or a file of names; None: all"
    )
    shots: int | None = Field(None, ge=1, description="training videos per class; None takes all")
    nested_shots: bool = Field(True, description="whether K shots are among the 2K of the same seed")
    allow_leaks: bool = Field(
        False, description="read a published protocol whose splits share videos; its rows are marked"
    )
    val_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.2, gt=0, lt=1)
    split_seed: int = 0
    train_views: int = Field(1, ge=1, description="stored temporal views of a training video")
    seconds_per_video: float = Field(
        600, gt=0, description="what decoding one video may take; one that takes longer is left out"
    )
    augment: AugmentConfig = AugmentConfig()
    bank: int | None = Field(
        None, ge=1, description="augmented views of a training video, drawn once; None draws anew each epoch"
    )
    features: tuple[Literal["frame_features", "video_map"], ...] | None = Field(
        None, description="frozen features read from disk, with a bank; None: all that the method declares"
    )

    @model_validator(mode="after")
    def _features_have_fixed_views(self) -> Self:
        if self.features and self.bank is None:
            raise ValueError(
                f"features {list(self.features)} cannot be kept: without a bank every epoch draws new crops; "
                "set data.bank, for example 4"
            )
        if self.bank is not None and self.augment.mixup:
            raise ValueError(
                f"augment.mixup mixes pixels anew in every step, so that no bank holds them; got mixup"
                f" {self.augment.mixup} and bank {self.bank}: set one of them to 0 or null"
            )
        if self.bank is not None and self.bank < self.train_views:
            raise ValueError(
                f"bank must be at least train_views, or stored views are never seen; got {self.bank} < "
                f"{self.train_views}"
            )
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.manifest is None) == (self.synthetic is None):
            raise ValueError("data needs a manifest (--data FILE or data.manifest) or a synthetic section")
        return self


class BackboneConfig(Config):
    """Which frozen CLIP."""

    name: str = "ViT-B-16"
    pretrained: str | None = Field(None, description="tag, local file or 'random'; None: the usual tag")
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        from evclip_ray.models.backbones import find_backbone

        find_backbone(self.name)
        return self


class OptimConfig(Config):
    """AdamW with warm-up and cosine decay."""

    lr: float = Field(4e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(16, ge=1, description="videos per step, over all workers")
    eval_batch_size: int = Field(32, ge=1)
    warmup_epochs: float = Field(1.0, ge=0)
    warmup_lr: float = Field(0.0, ge=0)
    schedule: Literal["cosine_by_step", "cosine_by_epoch"] = "cosine_by_step"
    clip_norm: float | None = Field(1.0, gt=0)


def _method(data: Any) -> Any:
    if isinstance(data, Mapping):
        return MethodConfig.resolve(data).model_validate({"name": "ev_clip", **data})
    return data


class ExperimentConfig(Config):
    """Every setting of one run."""

    data: DataConfig
    view: ViewConfig = ViewConfig()
    backbone: BackboneConfig = BackboneConfig()
    method: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_method)]
    optim: OptimConfig = OptimConfig()
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _frames_fit_the_video_encoder(self) -> Self:
        if self.method.needs_video_encoder and self.view.num_frames % 2:
            raise ValueError(
                "view.num_frames must be even, the video encoder reads pairs of frames; "
                f"got {self.view.num_frames}"
            )
        return self

    @model_validator(mode="after")
    def _features_are_declared(self) -> Self:
        for name in self.data.features or ():
            if name not in self.method.caches:
                raise ValueError(
                    f"data.features: {name} of method {self.method.name!r} as configured is no constant of a "
                    f"view, or is not read; it can keep {sorted(self.method.caches) or 'nothing'}"
                )
        return self

    @classmethod
    def load(cls, data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Self:
        """Validate a tree that may start from a `preset`; its own values and `overrides` come after."""
        tree = override(data, overrides or {})
        preset = tree.pop("preset", None)
        tree.setdefault("method", {"name": "ev_clip"})
        tree.setdefault("data", {})
        if preset is None:
            return super().load(tree)
        if preset not in PRESETS:
            raise ConfigError(f"preset {preset!r} is unknown; {nearest(str(preset), list(PRESETS))}")
        return super().load(_under(override({}, PRESETS[preset]), tree))


def read_experiment(path: Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """The experiment in a YAML file, its settings nested or by dotted paths, as a search space has them.

    A relative manifest path counts from the working folder.
    """
    tree = read_yaml(path)
    dotted = {name: tree.pop(name) for name in list(tree) if "." in str(name)}
    return ExperimentConfig.load(tree, {**dotted, **(overrides or {})})


def _under(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = (
            _under(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
        )
    return merged
