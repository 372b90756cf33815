"""Networks of an experiment: frozen ones, shared within the process, and one adapter."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from evclip_ray.class_names import split_words
from evclip_ray.config import ConfigError
from evclip_ray.models import weight_status
from evclip_ray.models.batch import Frozen
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.frozen import device_name, frozen_dtype
from evclip_ray.models.methods.base import Method, MethodConfig
from evclip_ray.models.video_encoder import FrozenVideoEncoder, load_video_encoder
from evclip_ray.progress import stage
from evclip_ray.training.experiment import BackboneConfig, ExperimentConfig

log = logging.getLogger(__name__)


def pick_device() -> torch.device:
    """Return the GPU that this process may use, or else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def autocast_dtype(experiment: ExperimentConfig, device: torch.device) -> torch.dtype | None:
    """Return bfloat16 if `precision` requests it (`auto`: on a GPU only), or None for float32."""
    if experiment.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    if experiment.precision == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        _warn_of_emulation()
    return torch.bfloat16 if experiment.precision == "bfloat16" else None


def network_dtype(experiment: ExperimentConfig, device: torch.device) -> torch.dtype:
    """Return the format in which the frozen networks of an experiment are held, see `frozen_dtype`."""
    # Copied from rounded weights, CLIP would be trained from another start than on a CPU.
    return frozen_dtype(None if experiment.method.copies_clip else autocast_dtype(experiment, device), device)


def has_bfloat16() -> bool:
    """Return whether PyTorch computes in bfloat16 on this processor without emulation."""
    # PyTorch runs the same check before it passes a bfloat16 product to oneDNN.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _warn_of_emulation() -> None:
    log.warning(
        "precision=bfloat16: this processor has no bfloat16 units and emulates them, about 50 times slower "
        "than float32. Use precision=float32 on this machine."
    )


def load_backbone(
    backbone: BackboneConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> FrozenCLIP:
    """Load the frozen CLIP of an experiment. The process keeps it for later calls.

    Args:
        backbone: Settings.
        device: Device of the weights.
        dtype: Format of the image tower, see `frozen_dtype`.
    """
    return load_clip(
        backbone.name,
        backbone.pretrained,
        activation=backbone.activation,
        device=str(device),
        dtype=dtype,
        activation_checkpointing=backbone.activation_checkpointing,
    )


def load_encoder(
    method: MethodConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> FrozenVideoEncoder | None:
    """Load the frozen video network of a method, or return None for a method without one.

    The process keeps the network for later calls.

    Args:
        method: Settings.
        device: Device of the weights.
        dtype: Format of the weights, see `frozen_dtype`.
    """
    if not method.needs_video_encoder:
        return None
    encoder = method.video_encoder  # type: ignore[attr-defined]
    return load_video_encoder(encoder.name, encoder.weights, device=str(device), dtype=dtype)


def build_method(
    experiment: ExperimentConfig,
    classes: Sequence[str],
    *,
    device: torch.device | None = None,
    frozen: Frozen | None = None,
) -> Method:
    """Build the method of an experiment, initialised with the experiment's seed.

    Args:
        experiment: Settings of the run.
        classes: Labels in index order.
        device: Device of the method; by default the GPU, or else the CPU.
        frozen: Frozen networks; by default they are loaded. A run on cached features passes fewer.

    Raises:
        ConfigError: Two labels give the same words, so that CLIP's texts for them would be equal.
    """
    device = device or pick_device()
    names = [split_words(label) for label in classes]
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise ConfigError(
            f"class names must differ as words; several labels read: {', '.join(duplicates)}. "
            "Rename or merge these labels in the manifest."
        )
    with stage("loading networks"):
        if frozen is None:
            dtype = network_dtype(experiment, device)
            clip = load_backbone(experiment.backbone, device, dtype)
            frozen = Frozen(clip, load_encoder(experiment.method, device, dtype))
        # Initial values are drawn on the CPU and moved afterwards, so they do not depend on the device.
        # fork_rng restores the caller's random state.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(experiment.seed)
            method = experiment.method.build(
                frozen,
                class_names=names,
                num_frames=experiment.view.num_frames,
                image_size=frozen.clip.image_size,
            )
    return method.to(device)


def class_tensors(method: Method, experiment: ExperimentConfig, classes: Sequence[str]) -> list[str]:
    """Return the names of the trained tensors that belong to classes, whose names cannot be changed then.

    Their number is no sign of it: tensors for eight classes would fit eight other ones.

    Args:
        method: Method that predicts `classes`.
        experiment: Settings of the run.
        classes: Class names.
    """
    # Built again for another number of classes: tensors with a row per class then have another shape.
    fewer = classes[:1] if len(classes) > 1 else [*classes, f"not {classes[0]}"]
    device = method.frozen.clip.device
    other = build_method(experiment, fewer, device=device, frozen=method.frozen).state_dict()
    return [name for name, tensor in method.state_dict().items() if tensor.shape != other[name].shape]


def check_downloads(experiments: Iterable[ExperimentConfig]) -> None:
    """Check that missing weights can be downloaded, so that this is known before videos are decoded.

    Args:
        experiments: Experiments whose networks this machine loads.

    Raises:
        ConfigError: The host of some weights cannot be reached.
    """
    needed: dict[tuple[str, str | None, str | None, str], None] = {}
    for experiment in experiments:
        backbone, names = experiment.backbone, (None, "")
        if experiment.method.needs_video_encoder:
            encoder = experiment.method.video_encoder  # type: ignore[attr-defined]
            names = (encoder.name, encoder.weights)
        needed[backbone.name, backbone.pretrained, *names] = None
    for networks in needed:
        weight_status.check_downloads(*networks)


def zero_shot_of(experiment: ExperimentConfig) -> ExperimentConfig:
    """Return the experiment with the zero-shot method and the same template and normalisation."""
    settings = {"name": "zero_shot"}
    kind = MethodConfig.resolve(settings)
    # The template and the normalisation are those of the method: the baseline then differs in the training
    # alone.
    shared = kind.model_fields.keys() - {"name"}
    settings |= {
        name: getattr(experiment.method, name) for name in shared if hasattr(experiment.method, name)
    }
    return experiment.model_copy(update={"method": kind.model_validate(settings)})


def conditions_of(frozen: Frozen, experiment: ExperimentConfig, device: torch.device) -> dict[str, str]:
    """Return how a number was computed: precision, device, and the activation of CLIP, by name.

    Numbers of two devices or precisions differ by rounding, which can change the class of a few videos.

    Args:
        frozen: Frozen networks.
        experiment: Settings of the run.
        device: Device of the method.
    """
    activation = frozen.clip.activation
    known = {} if activation is None else {"activation": activation}
    return computed_in(experiment, device) | known


def computed_in(experiment: ExperimentConfig, device: torch.device) -> dict[str, str]:
    """Return precision and device of a computation: {"precision": "float32", "device": "cpu"}."""
    dtype = autocast_dtype(experiment, device)
    return {
        "precision": "float32" if dtype is None else str(dtype).removeprefix("torch."),
        "device": device_name(device),
    }


def weights_of(frozen: Frozen) -> dict[str, str]:
    """Return the origin of the frozen weights by network: a tag, a file's digest, or "random"."""
    weights = {"clip": frozen.clip.weights}
    if frozen.video_encoder is not None:
        weights["video_encoder"] = frozen.video_encoder.weights
    return weights
