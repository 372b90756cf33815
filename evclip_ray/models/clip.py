"""Frozen CLIP: an image tower and a text tower, never trained and always in evaluation mode.

Frozen does not mean `no_grad`: a mask on the pixels gets its gradient *through* the image tower. So
`prepare` (resizing and normalising) and `encode_frames` are two differentiable calls, and a mask is applied
between them. Class names are constants, so text is encoded without gradient.

Licences: OpenAI's CLIP weights are MIT. Other open_clip tags have licences of their own; see the model cards.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted
from evclip_ray.models.activation import Activation, ActivationSetting
from evclip_ray.models.attention import use_batch_first_attention
from evclip_ray.models.backbones import Backbone, find_backbone
from evclip_ray.models.clip_names import open_clip_names
from evclip_ray.models.clip_weights import find_weights, is_script_archive
from evclip_ray.models.downloads import check_hub, no_download, quiet_attempts, repository_of
from evclip_ray.models.fold_batch_norm import fold_batch_norms
from evclip_ray.models.frozen import (
    META,
    RANDOM,
    FrozenNetwork,
    hold_in,
    in_own_format,
    random_weights,
    without_autocast,
)
from evclip_ray.models.open_clip_models import build
from evclip_ray.models.preprocess import prepare
from evclip_ray.models.weight_files import describe_mismatch, read_tensors
from evclip_ray.models.world_weights import WORLD, WorldTokenizer, read_world_tensors, world_words

log = logging.getLogger(__name__)

Tokenizer = Callable[..., Tensor]
"""`(texts, context_length=L) -> (N, L)` int64."""

_TEXTS_AT_ONCE = 256


class FrozenCLIP(FrozenNetwork):
    """CLIP model that cannot be trained or put into training mode.

    Attributes:
        embed_dim: Dimension D of the shared space.
        image_size: Side S of the input in pixels.
        context_length: Longest text in tokens.
        mean: Mean of each colour that the input is normalised with.
        std: Standard deviation of each colour.
        logit_scale: Factor of the logits (100 in a trained CLIP), not its logarithm.
        activation: Activation of the MLPs; None if the model was not built from a `Backbone`.
        last_norm: Tensors of the last layer norm of a ViT in float32, from which a method may train its own,
            also where the image tower is rounded later. Empty for other towers.
    """

    model: Any

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        name: str,
        embed_dim: int,
        weights: str,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(name=name, weights=weights)
        self.activation = activation
        use_batch_first_attention(model)
        # No gradients for the weights. Gradients with respect to the input still pass through.
        self.model = model.requires_grad_(False)
        self.train(False)
        norm = getattr(self.model.visual, "ln_post", None)
        state = {} if norm is None else norm.state_dict()
        self.last_norm: dict[str, Tensor] = {name: value.clone() for name, value in state.items()}
        self.tokenizer = tokenizer
        preprocess = self.model.visual.preprocess_cfg
        self.image_size = _side(self.model.visual.image_size, name)
        self.mean: tuple[float, ...] = tuple(preprocess["mean"])
        self.std: tuple[float, ...] = tuple(preprocess["std"])
        self.context_length = int(self.model.context_length)
        self.embed_dim = embed_dim
        # A Python number: reading a GPU tensor in every step would wait for the GPU.
        self.logit_scale = float(self.model.logit_scale.exp())
        bias = self.model.logit_bias
        self.logit_bias = None if bias is None else float(bias)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the image tower. The text tower is always float32."""
        dtype: torch.dtype = next(self.model.visual.parameters()).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.model.logit_scale.device
        return device

    def prepare(
        self, pixels: Tensor, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Tensor:
        """Resize (bicubic, antialiased) and normalise frames.

        Args:
            pixels: (B, T, 3, H, W) in [0, 1].
            mean: Mean of each colour; None uses the model's own.
            std: Standard deviation of each colour; None uses the model's own.

        Returns:
            (B, T, 3, S, S).
        """
        return prepare(pixels, self.image_size, mean=mean or self.mean, std=std or self.std)

    def encode_frames(self, images: Tensor) -> Tensor:
        """Return the features (B, T, D) of prepared images (B, T, 3, S, S), un-normalised.

        The result is differentiable with respect to `images`.
        """
        views, frames = images.shape[:2]
        # (B, T, 3, S, S) -> (B T, 3, S, S): CLIP encodes single images.
        with in_own_format(self.dtype, images.device):
            features: Tensor = self.model.encode_image(images.flatten(0, 1).to(self.dtype))
        per_video: Tensor = features.unflatten(0, (views, frames))
        return per_video

    def encode_text(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """Return the features (N, D) of N texts: float32, L2-normalised, without gradient.

        Args:
            texts: N texts.
            allow_truncation: Whether to cut a text that is longer than the context.

        Raises:
            ValueError: A text is longer than the context and `allow_truncation` is False.
        """
        return F.normalize(self.encode_text_raw(texts, allow_truncation=allow_truncation), dim=-1)

    @torch.no_grad()
    def encode_text_raw(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """Return the features of `encode_text` before normalisation."""
        tokens = self.tokenize(texts, allow_truncation=allow_truncation).to(self.device)
        # Class embeddings are computed once and used in every step, so bfloat16 would save no time here.
        with without_autocast(self.device):
            chunks = [self.model.encode_text(chunk) for chunk in tokens.split(_TEXTS_AT_ONCE)]
        return torch.cat(chunks)

    def tokenize(self, texts: Sequence[str], *, allow_truncation: bool = False) -> Tensor:
        """Return the tokens (N, L) int64 of N texts. Raises the errors of `encode_text`."""
        if not texts:
            raise ValueError("at least one text is needed, got none")
        tokens = self.tokenizer(list(texts), context_length=self.context_length)
        if not allow_truncation:
            self._refuse_overflow(texts, tokens)
        return tokens

    def _refuse_overflow(self, texts: Sequence[str], tokens: Tensor) -> None:
        # A tokenizer ends a cut text with its end token. With one more token of context, a text that was
        # cut therefore has another token at that position.
        longer = self.tokenizer(list(texts), context_length=self.context_length + 1)[:, :-1]
        cut = (longer != tokens).any(dim=1).nonzero().flatten().tolist()
        if cut:
            first = texts[cut[0]]
            raise ValueError(
                f"{len(cut)} of {len(texts)} texts are longer than the "
                f"{counted(self.context_length, 'token')} of "
                f"{self.name}, the first: {first[:80]!r} ({counted(self.count_tokens(first), 'token')}). "
                "Shorten the class name or the template."
            )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, with its start and its end, however long it is."""
        # A token has at least one byte of its text.
        length = len(text.encode()) + 3
        padding = self.tokenizer(["."], context_length=self.context_length)[0, -1]
        return int((self.tokenizer([text], context_length=length)[0] != padding).sum())


def load_clip(
    name: str,
    pretrained: str | None = None,
    *,
    activation: ActivationSetting = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    activation_checkpointing: bool = False,
) -> FrozenCLIP:
    """Load a frozen CLIP. The process keeps it, so that the trials of a study load it once.

    Args:
        name: Row of BACKBONES, or an open_clip architecture.
        pretrained: open_clip tag, "world" for world-*, local file (safetensors, state dict, OpenAI archive,
            published EV-CLIP) or folder with one, "random", or None for the row's tag. Random weights depend
            on the name and on the versions of torch and open_clip.
        activation: Activation of the MLPs; "auto" takes that of the tag or the one that the file states.
        device: Device of the weights. "meta" gives a network without memory, for counting operations.
        dtype: Number format of the image tower; text is always encoded in float32.
        activation_checkpointing: Recompute the image tower in the backward pass, which needs less memory
            and more time.

    Raises:
        ConfigError: The name or the weights are unknown, cannot be downloaded, or do not fit. A local file
            does not state its activation, and both are possible.
    """
    return _load(name, pretrained, activation, str(device), dtype, activation_checkpointing)


@functools.lru_cache(maxsize=4)
def _load(
    name: str,
    pretrained: str | None,
    activation: ActivationSetting,
    device: str,
    dtype: torch.dtype,
    activation_checkpointing: bool,
) -> FrozenCLIP:
    backbone = find_backbone(name)
    model, weights, chosen = _model(name, backbone, pretrained, activation, device=device)
    # Only here: features of other ResNets are compared to the last bit with those of earlier versions.
    if backbone.is_world:
        fold_batch_norms(model.get_submodule("visual"))
    clip = FrozenCLIP(
        model,
        tokenizer_of(backbone),
        name=name,
        embed_dim=backbone.embed_dim,
        weights=weights,
        activation=chosen,
    ).to(device)
    # The image tower only: frozen class texts are encoded once, so that their precision costs no time.
    hold_in(clip.model.visual, dtype)
    if activation_checkpointing:
        _checkpoint_activations(clip)
    return clip


def _model(
    name: str, backbone: Backbone, pretrained: str | None, activation: ActivationSetting, *, device: str
) -> tuple[nn.Module, str, Activation]:
    # Shapes only: no weights are read, and both activations have the same shapes.
    if device == META:
        usual = backbone.activation_of(pretrained or backbone.pretrained)
        return _model_without_weights(backbone.architecture(usual)), META, usual
    weights = find_weights(name, pretrained, activation)
    architecture = backbone.architecture(weights.activation)
    if weights.file is not None:
        model = _model_from_file(name, architecture, weights.file)
    elif weights.origin.startswith(f"{WORLD}:"):
        model = build(architecture)
        model.load_state_dict(read_world_tensors(name))
    elif weights.origin == RANDOM:
        model = _random_model(name, architecture)
    elif weights.origin in backbone.tags:
        model = _tagged_model(name, architecture, weights.origin)
    else:
        known = ", ".join([*backbone.tags, RANDOM])
        raise ConfigError(
            f"backbone {name}: unknown weights {weights.origin or None!r}. "
            f"Give a local file or one of {known}."
        )
    log.info(
        "CLIP %s: weights %s, activation %s (from %s)",
        name,
        weights.origin,
        weights.activation,
        weights.source,
    )
    return model, weights.identity, weights.activation


def _model_without_weights(architecture: str) -> nn.Module:
    model = build(architecture, device=META)
    # FrozenCLIP converts these two to Python numbers, which tensors on the meta device do not allow.
    model.logit_scale = nn.Parameter(torch.zeros(()))
    if model.logit_bias is not None:
        model.logit_bias = nn.Parameter(torch.zeros(()))
    return model


def _random_model(name: str, architecture: str) -> nn.Module:
    with random_weights(f"CLIP {name}"):
        return build(architecture)


def _tagged_model(name: str, architecture: str, tag: str) -> nn.Module:
    repository, file = repository_of(open_clip.get_pretrained_cfg(find_backbone(name).open_clip, tag))
    try:
        if repository:
            check_hub(repository, file)
        with quiet_attempts():
            return build(architecture, tag)
    except (RuntimeError, OSError) as error:
        raise no_download(f"backbone {name}", tag, error) from error


def _model_from_file(name: str, architecture: str, path: Path) -> nn.Module:
    try:
        model = build(architecture)
        state = _openai_state(path) if is_script_archive(path) else open_clip_names(read_tensors(path))
        # Both sources give open_clip's names. An empty dict means any other format, which open_clip converts.
        if state:
            model.load_state_dict(state)
        else:
            open_clip.load_checkpoint(model, path)
        return model
    except Exception as error:
        # Unpickling, safetensors and open_clip's conversions raise unrelated kinds of errors.
        raise ConfigError(
            f"{path}: does not contain the weights of {architecture} ({name}): {describe_mismatch(error)}"
        ) from error


_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def _openai_state(path: Path) -> dict[str, Tensor]:
    # OpenAI's files are TorchScript archives. Their modules are not used, only their tensors.
    state = torch.jit.load(path, map_location="cpu").state_dict()
    return {key: value for key, value in state.items() if key not in _ARCHIVE_EXTRAS}


@functools.lru_cache(maxsize=4)
def tokenizer_of(backbone: Backbone) -> Tokenizer:
    """Return the tokenizer of a backbone. The process keeps it.

    Raises:
        ConfigError: It must be downloaded, and that fails.
    """
    if backbone.is_world:
        return WorldTokenizer(world_words())
    architecture = backbone.open_clip
    # The debug towers have no tokenizer of their own. All OpenAI models share these 49,408 tokens.
    name = "ViT-B-32" if architecture.startswith("debug") else architecture
    try:
        with quiet_attempts():
            tokenizer: Tokenizer = open_clip.get_tokenizer(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"backbone {architecture}: the tokenizer could not be downloaded from the Hugging Face hub "
            f"({str(error).splitlines()[0]}). Install `transformers` and download it once with a network."
        ) from error
    return tokenizer


def _checkpoint_activations(clip: FrozenCLIP) -> None:
    visual = clip.model.visual
    if isinstance(visual, ModifiedResNet):
        raise ConfigError(
            f"backbone {clip.name}: a ResNet has no activation checkpointing. "
            "Set backbone.activation_checkpointing to false."
        )
    visual.set_grad_checkpointing(True)


def _side(image_size: int | Sequence[int], name: str) -> int:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height != width:
        raise ConfigError(f"backbone {name}: the input must be square, but is {height} x {width} pixels")
    return int(height)
