"""FrozenCLIP: the two towers of a CLIP, never trained, always in evaluation mode.

Frozen is not `no_grad`: a mask on the pixels gets its gradient *through* the image tower. So
`prepare` (pixels to what the tower reads) and `encode_frames` are two calls, differentiable both,
and a mask goes between them. Class names are constants, so text is encoded without gradient.
"""

import functools
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from evclip_ray.artifacts import file_digest
from evclip_ray.config import ConfigError
from evclip_ray.models.attention import quicken
from evclip_ray.models.backbones import Backbone, build, find_backbone
from evclip_ray.models.clip_names import open_clip_names
from evclip_ray.models.frozen import META, RANDOM, FrozenNetwork, random_weights, without_autocast
from evclip_ray.models.preprocess import prepare
from evclip_ray.models.weight_files import read_tensors

Tokenizer = Callable[..., Tensor]
"""`(texts, context_length=L) -> (N, L)` int64."""

_TEXTS_AT_ONCE = 256


class FrozenCLIP(FrozenNetwork):
    """A CLIP model that nothing can train or put into training mode.

    `embed_dim`: D; `image_size`: S, pixels; `context_length`: tokens; `mean`, `std`: of each colour.
    `logit_scale`: the factor itself (100 in a trained CLIP), not its logarithm.
    """

    model: Any

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, *, name: str, embed_dim: int, weights: str
    ) -> None:
        super().__init__(name=name, weights=weights)
        quicken(model)
        self.model = model.requires_grad_(False)
        self.train(False)
        self.tokenizer = tokenizer
        preprocess = self.model.visual.preprocess_cfg
        self.image_size = _side(self.model.visual.image_size, name)
        self.mean: tuple[float, ...] = tuple(preprocess["mean"])
        self.std: tuple[float, ...] = tuple(preprocess["std"])
        self.context_length = int(self.model.context_length)
        self.embed_dim = embed_dim
        self.logit_scale = float(self.model.logit_scale.exp())
        bias = self.model.logit_bias
        self.logit_bias = None if bias is None else float(bias)

    @property
    def dtype(self) -> torch.dtype:
        """Of the image tower's weights; the text tower's are float32."""
        found: torch.dtype = next(self.model.visual.parameters()).dtype
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = self.model.logit_scale.device
        return found

    def prepare(
        self, pixels: Tensor, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Tensor:
        """(B, T, 3, H, W) in [0, 1] -> (B, T, 3, S, S): resized (bicubic, antialiased), normalised.

        `mean`, `std`: of each colour, the model's own when None.
        """
        return prepare(pixels, self.image_size, mean=mean or self.mean, std=std or self.std)

    def encode_frames(self, images: Tensor) -> Tensor:
        """(B, T, 3, S, S) prepared -> (B, T, D), un-normalised; differentiable with respect to `images`."""
        views, frames = images.shape[:2]
        features: Tensor = self.model.encode_image(images.flatten(0, 1).to(self.dtype))
        per_video: Tensor = features.unflatten(0, (views, frames))
        return per_video

    def encode_text(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """N texts -> (N, D) float32, L2-normalised, without gradient.

        Raises:
            ValueError: a text is longer than the context and `allow_truncation` is False.
        """
        return F.normalize(self.encode_text_raw(texts, allow_truncation=allow_truncation), dim=-1)

    @torch.no_grad()
    def encode_text_raw(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """As `encode_text`, un-normalised."""
        tokens = self.tokenize(texts, allow_truncation=allow_truncation).to(self.device)
        # Class embeddings are made once and used always: not worth a rounding to bfloat16.
        with without_autocast(self.device):
            chunks = [self.model.encode_text(chunk) for chunk in tokens.split(_TEXTS_AT_ONCE)]
        return torch.cat(chunks)

    def tokenize(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """N texts -> (N, L) int64; raises as `encode_text` does."""
        if not texts:
            raise ValueError("there must be at least one text to encode, got none")
        tokens = self.tokenizer(list(texts), context_length=self.context_length)
        if not allow_truncation:
            self._refuse_overflow(texts, tokens)
        return tokens

    def _refuse_overflow(self, texts: Sequence[str], tokens: Tensor) -> None:
        # Every tokenizer puts its end token where it cuts, so a cut text differs from its longer self.
        longer = self.tokenizer(list(texts), context_length=self.context_length + 1)[:, :-1]
        cut = (longer != tokens).any(dim=1).nonzero().flatten().tolist()
        if cut:
            raise ValueError(
                f"a text must fit in {self.name}'s context of {self.context_length} tokens; "
                f"too long: {texts[cut[0]][:80]!r} ({len(cut)} of {len(texts)}). "
                "Shorten the name or the template"
            )


def load_clip(
    name: str,
    pretrained: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    activation_checkpointing: bool = False,
) -> FrozenCLIP:
    """The frozen CLIP called `name`, kept for this process: the trials of a study load it once.

    Args:
        name: a row of BACKBONES or an open_clip architecture.
        pretrained: an open_clip tag, a local file (safetensors, state dict, OpenAI archive,
            a published EV-CLIP), "random",
            or None for the row's tag. Random weights depend on the name alone.
        dtype: of the image tower; text is always encoded in float32.
        device: "meta" gives a network without weights or memory, to count what it costs.
        activation_checkpointing: recompute the image tower in the backward pass instead of storing it.

    Raises:
        ConfigError: unknown name or weights, or weights that cannot be fetched or do not fit.
    """
    return _load(name, pretrained, str(device), dtype, activation_checkpointing)


@functools.lru_cache(maxsize=4)
def _load(
    name: str, pretrained: str | None, device: str, dtype: torch.dtype, activation_checkpointing: bool
) -> FrozenCLIP:
    backbone = find_backbone(name)
    model, weights = _model(name, backbone, pretrained or backbone.pretrained, device=device)
    tokenizer = _tokenizer(backbone.open_clip)
    clip = FrozenCLIP(model, tokenizer, name=name, embed_dim=backbone.embed_dim, weights=weights).to(device)
    clip.model.visual.to(dtype)
    if activation_checkpointing:
        _checkpoint_activations(clip)
    return clip


def _model(name: str, backbone: Backbone, pretrained: str | None, *, device: str) -> tuple[nn.Module, str]:
    if device == META:
        return _model_without_weights(backbone.architecture(pretrained)), META
    tags = open_clip.list_pretrained_tags_by_model(backbone.open_clip)
    if pretrained == RANDOM:
        return _random_model(name, backbone), RANDOM
    if pretrained is not None and pretrained in tags:
        return _tagged_model(name, backbone, pretrained), pretrained
    if pretrained is not None and Path(pretrained).is_file():
        path = Path(pretrained)
        return _model_from_file(name, backbone, path), f"file:{file_digest(path)}"
    known = ", ".join([*tags, RANDOM])
    raise ConfigError(f"backbone {name}: weights must be a local file or one of {known}; got {pretrained!r}")


def _model_without_weights(architecture: str) -> nn.Module:
    model = build(architecture, device=META)
    # These two are read as numbers.
    model.logit_scale = nn.Parameter(torch.zeros(()))
    if model.logit_bias is not None:
        model.logit_bias = nn.Parameter(torch.zeros(()))
    return model


def _random_model(name: str, backbone: Backbone) -> nn.Module:
    with random_weights(f"CLIP {name}"):
        return build(backbone.architecture(None))


def _tagged_model(name: str, backbone: Backbone, tag: str) -> nn.Module:
    try:
        return build(backbone.architecture(tag), tag)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"backbone {name}: the weights {tag!r} could not be fetched ({str(error).splitlines()[0]}). "
            f"Give a local file as `pretrained`, or ask for untrained weights with pretrained={RANDOM!r}"
        ) from error


def _model_from_file(name: str, backbone: Backbone, path: Path) -> nn.Module:
    architecture = backbone.architecture(None)
    try:
        model = build(architecture)
        state = _openai_state(path) if _is_script_archive(path) else open_clip_names(read_tensors(path))
        if state:
            model.load_state_dict(state)
        else:
            open_clip.load_checkpoint(model, path)
        return model
    except Exception as error:
        # Unpickling, safetensors and open_clip's conversions each raise kinds of their own.
        reason = " ".join(str(error).split())[:400]
        raise ConfigError(
            f"{path}: does not hold the weights of {architecture} ({name}): {reason}"
        ) from error


_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def _openai_state(path: Path) -> dict[str, Tensor]:
    state = torch.jit.load(path, map_location="cpu").state_dict()
    return {key: value for key, value in state.items() if key not in _ARCHIVE_EXTRAS}


def _is_script_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in entry for entry in archive.namelist())


def _tokenizer(architecture: str) -> Tokenizer:
    try:
        tokenizer: Tokenizer = open_clip.get_tokenizer(
            "ViT-B-32" if architecture.startswith("debug") else architecture
        )
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"backbone {architecture}: its tokenizer comes from the Hugging Face hub and cannot be had "
            f"({str(error).splitlines()[0]}). Install `transformers` and fetch it once with a network"
        ) from error
    return tokenizer


def _checkpoint_activations(clip: FrozenCLIP) -> None:
    visual = clip.model.visual
    if isinstance(visual, ModifiedResNet):
        raise ConfigError(f"backbone {clip.name}: a ResNet has no activation checkpointing; switch it off")
    visual.set_grad_checkpointing(True)


def _side(image_size: int | Sequence[int], name: str) -> int:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height != width:
        raise ConfigError(f"backbone {name}: its input must be square, it is {height} x {width}")
    return int(height)
