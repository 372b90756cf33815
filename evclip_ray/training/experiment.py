"""Settings of one run, as one validated tree.

An `ExperimentConfig` plus overrides is a run. Its sections are the videos (`data`, `view`), the frozen CLIP
(`backbone`), the adaptation (`method`), the training (`optim`), and `seed`, `precision` and `compile`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from evclip_ray.config import Config, ConfigError, nearest, override, read_yaml
from evclip_ray.data.augmentation import CROP_FRACTION, AugmentConfig
from evclip_ray.data.manifest.columns import CHOSEN
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.models.activation import ActivationSetting
from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.methods.config import MethodConfig
from evclip_ray.world.settings import WorldConfig

PRESETS: dict[str, dict[str, Any]] = {
    # Published EV-CLIP recipe for UCF101, HMDB51 and EGTEA with 8 frames: all training videos, crops without
    # flips, one warm-up epoch at a constant rate, cosine by epoch. The learning rate scales with the batch:
    # 4e-4 at 64. The released code selects the best epoch on the test list; the last epoch needs no list.
    "published": {
        "view.sampling": "window",
        "view.window_frames": 32,
        "view.height": 256,
        "view.width": 340,
        "view.fit": "stretch",
        "method.template": "A video of {}.",
        "method.normalization": "imagenet",
        "data.selection": "last_epoch",
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


def _is_unset(value: object) -> bool:
    return value is None


class SyntheticConfig(Config):
    """Synthetic videos of version 0.1, which only the records of its studies and checkpoints name."""

    videos_per_class: int = Field(24, ge=5, description="videos of each of the six classes")
    size: int = Field(96, ge=32, description="side of a frame in pixels")
    num_frames: int = Field(24, ge=4, description="frames of a video")


Selection = Literal["validation", "kshot_validation", "last_epoch"]
"""How the checkpoint of a run is chosen, see `DataConfig.selection`."""


LOCATION = ("manifest", "root", "path_column", "label_column", "class_names")
"""Settings of `data` that may differ if the videos, labels and splits are the same by content."""


class DataConfig(Config):
    """Videos of an experiment, and the rule that splits them.

    `data.cached_views` is another name of `data.bank`.
    """

    manifest: str | None = Field(
        None, description="CSV, TSV, text or Parquet list, or a folder with one folder per class"
    )
    root: str | None = Field(None, description="folder that relative paths of the manifest start from")
    # Names of columns and the next setting are left out of dumps at their defaults, for the reason below.
    path_column: str | None = Field(
        None,
        exclude_if=_is_unset,
        description="column with the videos; None is 'path' or a usual name such as 'filename'",
    )
    label_column: str | None = Field(
        None,
        exclude_if=_is_unset,
        description="column with the labels; None is 'label' or a usual name such as 'class'",
    )
    split_column: str | None = Field(
        None,
        exclude_if=_is_unset,
        description="column with the splits; None is 'split' or a usual name such as 'subset'",
    )
    group_column: str | None = Field(
        None, exclude_if=_is_unset, description="column with the groups; None is 'group'"
    )
    class_names: str | None = Field(
        None,
        exclude_if=_is_unset,
        description="file with the names of labels that are ids: CSV, JSON or text; None takes labels as "
        "names",
    )
    merge_labels: bool = Field(
        False,
        exclude_if=lambda value: value is False,
        description="give labels that CLIP reads as the same text ('Kick' and 'kick') one label; False "
        "refuses them",
    )
    # It is left out of dumps where it is not set, for the reason given below.
    world: WorldConfig | None = Field(
        None,
        exclude_if=_is_unset,
        description="videos of the small world instead of a manifest, drawn into the cache",
    )
    synthetic: SyntheticConfig | None = Field(
        None, description="removed, use data.world; read for studies of version 0.1 with cached videos"
    )
    classes: str | None = Field(
        None,
        description="'base' (the more frequent half), 'novel' (the others) or a file of class names; "
        "None uses all classes",
    )
    shots: int | None = Field(None, ge=1, description="training videos per class; None uses all")
    # The next three are left out of dumps where they are not set. Keys of videos and zero-shot scores, and
    # the comparison with a recorded experiment, are then those of versions without these settings.
    selection: Selection | None = Field(
        None,
        exclude_if=_is_unset,
        description="'validation' keeps the best epoch on all validation videos, 'kshot_validation' on at "
        "most data.val_shots per class, 'last_epoch' keeps the last epoch and holds nothing out of train; "
        "None is 'kshot_validation' with data.shots, 'last_epoch' for a published K-shot list, else "
        "'validation'",
    )
    val_shots: int | None = Field(
        None,
        ge=1,
        exclude_if=_is_unset,
        description="most validation videos per class of 'kshot_validation'; None is data.shots",
    )
    folds: int | None = Field(
        None,
        ge=2,
        exclude_if=_is_unset,
        description="folds of the cross-validation of a study with 'last_epoch' and no validation videos; "
        "None is 4, or the number of training videos (groups) of the smallest class if that is lower",
    )
    nested_shots: bool = Field(
        True, description="whether the K-shot videos are part of the 2K-shot videos of the same seed"
    )
    allow_leaks: bool = Field(
        False,
        description="accept a published protocol whose splits share videos; the affected rows are counted "
        "with every number",
    )
    val_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the training videos held out for validation, if no split is given",
    )
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of all videos held out for the test, if no split is given"
    )
    split_seed: int = Field(0, description="seed of the splits and of the shots")
    train_views: int = Field(1, ge=1, description="decoded temporal views of a training video")
    seconds_per_video: float = Field(
        600, gt=0, description="time limit of decoding one video in seconds; slower videos are skipped"
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="random augmentation of training views")
    bank: int | None = Field(
        None,
        ge=1,
        description="cached augmented views of a training video, whose frozen features are computed once; "
        "None draws a new view in every epoch, and only class texts are cached",
    )
    features: tuple[Literal["frame_features", "video_map"], ...] | None = Field(
        None,
        description="features read from the cache, with data.bank; None reads all that the method declares",
    )

    @property
    def location(self) -> dict[str, Any]:
        """The settings of `LOCATION`, which say where the videos are and not which ones they are."""
        return {name: getattr(self, name) for name in LOCATION}

    @property
    def columns(self) -> dict[str, str]:
        """Column of the manifest -> its name in the file, for those that are set."""
        chosen = {name: getattr(self, f"{name}_column") for name in CHOSEN}
        return {name: column for name, column in chosen.items() if column is not None}

    @model_validator(mode="before")
    @classmethod
    def _accept_cached_views(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "cached_views" not in data:
            return data
        # The alias is replaced before validation, so that digests and checkpoints contain `bank` only.
        settings = dict(data)
        cached_views = settings.pop("cached_views")
        if settings.get("bank") not in (None, cached_views):
            raise ValueError(
                f"data.bank and data.cached_views are the same setting, got {settings['bank']} and "
                f"{cached_views}. Set one of them."
            )
        return {**settings, "bank": cached_views}

    @model_validator(mode="after")
    def _features_have_fixed_views(self) -> Self:
        if self.features and self.bank is None:
            raise ValueError(
                f"features {list(self.features)} cannot be cached, because every epoch draws new views. "
                "Set data.bank, for example to 4."
            )
        if self.bank is not None and self.augment.mixup:
            raise ValueError(
                f"augment.mixup ({self.augment.mixup}) mixes pixels in every step, which cached views "
                f"(data.bank, {self.bank}) do not allow. Set augment.mixup to 0 or data.bank to null."
            )
        # Cached view v is cropped from the decoded view v modulo `train_views`.
        if self.bank is not None and self.bank < self.train_views:
            raise ValueError(
                f"data.bank ({self.bank}) must be at least data.train_views ({self.train_views}); otherwise "
                "some decoded views are never used"
            )
        return self

    @model_validator(mode="after")
    def _selection_has_its_settings(self) -> Self:
        if self.selection == "kshot_validation" and self.val_shots is None and self.shots is None:
            raise ValueError(
                "data.selection=kshot_validation needs the number of validation videos per class. Set "
                "data.val_shots, for example to 4."
            )
        if self.val_shots is not None and self.selection in ("validation", "last_epoch"):
            raise ValueError(
                f"data.val_shots ({self.val_shots}) needs data.selection=kshot_validation, got "
                f"{self.selection}"
            )
        if self.folds is not None and (self.val_shots or self.selection not in (None, "last_epoch")):
            chosen = self.selection or f"data.val_shots={self.val_shots}"
            raise ValueError(f"data.folds ({self.folds}) needs data.selection=last_epoch, got {chosen}")
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        sources = {"manifest": self.manifest, "world": self.world, "synthetic": self.synthetic}
        given = [f"data.{name}" for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                "data needs either a manifest (--data FILE or data.manifest) or the small world (--set "
                f"data.world.domain=plain), got {' and '.join(given) or 'neither'}"
            )
        return self


class BackboneConfig(Config):
    """Frozen CLIP."""

    name: str = Field("ViT-B-16", description="row of BACKBONES, or any open_clip name")
    pretrained: str | None = Field(
        None,
        description="tag, local file or folder, or 'random'; None uses the backbone's usual tag",
    )
    # "auto" is left out of dumps, so that keys and digests of earlier studies stay equal.
    activation: ActivationSetting = Field(
        "auto",
        exclude_if=lambda value: value == "auto",
        description="'gelu' or 'quickgelu', the activation that the weights were trained with; 'auto' takes "
        "that of a tag, or the one that a local file or a config next to it states",
    )
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, slower steps"
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        find_backbone(name)
        return name


class OptimConfig(Config):
    """AdamW with warm-up and cosine decay; see `learning_rate` for the two schedules."""

    lr: float = Field(4e-4, gt=0, description="learning rate after the warm-up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's weight decay of every trained tensor")
    epochs: int = Field(50, ge=1, description="epochs of a run that is not stopped early")
    batch_size: int = Field(16, ge=1, description="videos per step, over all workers")
    eval_batch_size: int = Field(32, ge=1, description="videos per batch of validation and evaluation")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of the warm-up")
    warmup_lr: float = Field(0.0, ge=0, description="learning rate at the start of the warm-up")
    schedule: Literal["cosine_by_step", "cosine_by_epoch"] = Field(
        "cosine_by_step", description="'cosine_by_epoch' is the published schedule"
    )
    # Left out of dumps at its default, so that digests and checkpoints of earlier versions stay equal.
    scalar_lr_factor: float = Field(
        1.0,
        gt=0,
        le=1000,
        exclude_if=lambda value: value == 1,
        description="factor of the learning rate of trained tensors of a single number, such as the scale of "
        "a context prompt; 1 as published, 30 moves them in a training of a few hundred steps",
    )
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; None does not clip")


def _image_size(backbone: Any) -> int | None:
    """Return the side of the input of a backbone in pixels; None if its settings are invalid."""
    given = backbone if isinstance(backbone, Mapping) else {}
    try:
        return find_backbone(given.get("name", BackboneConfig.model_fields["name"].default)).image_size
    except (ConfigError, AttributeError):
        return None


def _method(data: Any) -> Any:
    if isinstance(data, Mapping):
        return MethodConfig.resolve(data).model_validate({"name": "ev_clip", **data})
    return data


class ExperimentConfig(Config):
    """Settings of one run.

    Example:
        >>> experiment = ExperimentConfig.load(
        ...     {"data": {"manifest": "videos.csv"}}, {"optim.lr": 3e-4, "method.prompts": "mask"}
        ... )
        >>> experiment.optim.lr
        0.0003
    """

    data: DataConfig
    view: ViewConfig = ViewConfig()
    backbone: BackboneConfig = BackboneConfig()
    # Without SerializeAsAny pydantic would write the fields of the base class only, that is the name.
    method: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_method)]
    optim: OptimConfig = OptimConfig()
    seed: int = Field(0, ge=0, description="seed of the adapter, the order of videos and augmentation")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="format of matrix products; 'auto' is bfloat16 on a GPU and float32 on a CPU"
    )
    # Left out of dumps at its default, so that digests and checkpoints of earlier versions stay equal.
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        exclude_if=lambda value: value == "auto",
        description="torch.compile of training steps and validation; 'auto' compiles long runs on a GPU, "
        "where it pays; 'off' also uses no CUDA graphs",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_side_follows_the_backbone(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given, size = data.get("view") or {}, _image_size(data.get("backbone"))
        if size is None or not isinstance(given, Mapping):
            return data
        # A given height, width or fit other than "short_side" sets a fixed size.
        sizes = {name for name in ("short_side", "height", "width") if given.get(name) is not None}
        if sizes or given.get("fit") not in (None, "short_side"):
            return data
        # The crop of an evaluation has 7/8 of the short side: 224 of 256.
        return {**data, "view": {**given, "short_side": max(round(size / CROP_FRACTION), 16)}}

    @model_validator(mode="after")
    def _frames_fill_the_input(self) -> Self:
        size = _image_size(self.backbone.model_dump())
        # Fixed sizes come from old checkpoints too, so they are only reported, see `enlarged_frames`.
        if size is not None and self.view.short_side is not None and self.view.short_side < size:
            raise ValueError(
                f"view.short_side={self.view.short_side} is less than the {size} pixels that "
                f"{self.backbone.name} reads; set it to {round(size / CROP_FRACTION)}, the default"
            )
        return self

    @property
    def enlarged_frames(self) -> str | None:
        """Warning if the stored frames are smaller than the input of the backbone, otherwise None."""
        size = _image_size(self.backbone.model_dump())
        if size is None or self.view.shortest >= size:
            return None
        fix = round(size / CROP_FRACTION)
        return (
            f"stored frames with a short side of {self.view.shortest} pixels are enlarged to the {size} "
            f"pixels of {self.backbone.name}, which adds no detail; set view.height and view.width to at "
            f"least {fix}, or view.fit=short_side with view.height=null view.width=null"
        )

    @model_validator(mode="after")
    def _frames_fit_the_video_encoder(self) -> Self:
        if self.method.needs_video_encoder and self.view.num_frames % 2:
            raise ValueError(
                f"view.num_frames must be even, because the video encoder reads pairs of frames; got "
                f"{self.view.num_frames}"
            )
        return self

    @model_validator(mode="after")
    def _features_are_declared(self) -> Self:
        for name in self.data.features or ():
            if name not in self.method.caches:
                raise ValueError(
                    f"data.features: method {self.method.name!r} with these settings cannot cache {name!r}; "
                    f"it can cache {sorted(self.method.caches) or 'nothing'}"
                )
        return self

    @classmethod
    def load(cls, data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Self:
        """Validate a tree of settings.

        Args:
            data: Nested settings. A key `preset` starts from one of `PRESETS`; the other keys replace its
                values.
            overrides: Dotted path -> value. They replace the values of `data`.

        Raises:
            ConfigError: A setting is unknown or has an invalid value.
        """
        # Precedence, from weak to strong: defaults, preset, file, overrides.
        tree = override(data, overrides or {})
        preset = tree.pop("preset", None)
        # An omitted data section then fails with the advice of `_has_one_source` instead of "field required".
        tree.setdefault("method", {"name": "ev_clip"})
        tree.setdefault("data", {})
        if preset is None:
            return super().load(tree)
        if preset not in PRESETS:
            raise ConfigError(f"preset {preset!r} is unknown; {nearest(str(preset), list(PRESETS))}")
        return super().load(_under(override({}, PRESETS[preset]), tree))


def read_experiment(path: Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """Read an experiment from a YAML file with nested settings, dotted paths, or both.

    A relative manifest path starts from the working folder, not from the folder of the file.

    Args:
        path: YAML file.
        overrides: Dotted path -> value. They replace the values of the file.
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
