"""From an experiment to the networks it trains: frozen ones shared within the process, one adapter."""

import functools
import logging
from collections.abc import Sequence

import torch

from evclip_ray.class_names import split_words
from evclip_ray.config import ConfigError
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.methods.base import Frozen, Method, MethodConfig
from evclip_ray.models.video_encoder import FrozenVideoEncoder, load_video_encoder
from evclip_ray.training.experiment import BackboneConfig, ExperimentConfig

log = logging.getLogger(__name__)


def pick_device() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def autocast_dtype(experiment: ExperimentConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where `precision` asks for it (`auto`: on a GPU), else None for float32."""
    if experiment.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    if experiment.precision == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        _warn_of_emulation()
    return torch.bfloat16 if experiment.precision == "bfloat16" else None


def has_bfloat16() -> bool:
    """Whether PyTorch computes in bfloat16 on this processor without emulating it."""
    # What PyTorch asks itself before it hands such a product to oneDNN.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _warn_of_emulation() -> None:
    log.warning(
        "precision=bfloat16: this processor has none and emulates it, some 50 times slower than float32"
    )


def load_backbone(backbone: BackboneConfig, device: torch.device) -> FrozenCLIP:
    """The frozen CLIP of an experiment; loaded once per process and kept."""
    return load_clip(
        backbone.name, backbone.pretrained, device=str(device),
        activation_checkpointing=backbone.activation_checkpointing,
    )  # fmt: skip


def load_encoder(method: MethodConfig, device: torch.device) -> FrozenVideoEncoder | None:
    """The frozen video network that a method reads, if it reads one; loaded once per process and kept."""
    if not method.needs_video_encoder:
        return None
    encoder = method.video_encoder  # type: ignore[attr-defined]
    return load_video_encoder(encoder.name, encoder.weights, device=str(device))


def build_method(
    experiment: ExperimentConfig,
    classes: Sequence[str],
    *,
    device: torch.device | None = None,
    frozen: Frozen | None = None,
) -> Method:
    """The method of an experiment over its frozen networks, initialised by the experiment's seed.

    `frozen`: the networks, where they are not all to be loaded.

    Raises:
        ConfigError: two labels that read the same as words.
    """
    device = device or pick_device()
    names = [split_words(label) for label in classes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"class names must differ as words, these do not: {', '.join(twice)}")
    if frozen is None:
        frozen = Frozen(load_backbone(experiment.backbone, device), load_encoder(experiment.method, device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        method = experiment.method.build(
            frozen, class_names=names, num_frames=experiment.view.num_frames,
            image_size=frozen.clip.image_size,
        )  # fmt: skip
    return method.to(device)


def zero_shot_of(experiment: ExperimentConfig) -> ExperimentConfig:
    """The same experiment without adaptation: its template and normalisation, nothing trained."""
    settings = {"name": "zero_shot"}
    kind = MethodConfig.resolve(settings)
    shared = kind.model_fields.keys() - {"name"}
    settings |= {
        name: getattr(experiment.method, name) for name in shared if hasattr(experiment.method, name)
    }
    return experiment.model_copy(update={"method": kind.model_validate(settings)})


def weights_of(frozen: Frozen) -> dict[str, str]:
    """Where the frozen weights came from: a tag, a file's digest, or "random"."""
    found = {"clip": frozen.clip.weights}
    if frozen.video_encoder is not None:
        found["video_encoder"] = frozen.video_encoder.weights
    return found
