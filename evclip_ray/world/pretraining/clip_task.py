"""Contrastive pretraining of a world CLIP on stills and captions.

    loss = (CE(P, softmax(L)) + CE(P^T, softmax(L^T))) / 2

where

    L    = exp(s) I T^T, with L2-normalised features I of B stills and T of B captions
    P_ij = 1 / number of captions that are true of still i, if caption j is true of it, else 0; P^T likewise
           over the stills of a caption
    CE   cross entropy, mean over rows

A quarter of the captions of a limb's action name only its part or only its motion.
CLIP (Radford et al. 2021, section 2.3) has P = identity. A caption that names no shirt is true of every still
with its action, and an identity would punish the right answer.
"""

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.open_clip_models import world_model
from evclip_ray.models.world_weights import WorldTokenizer
from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.captions import (
    CAPTION_FORMS,
    HALF_FORMS,
    Caption,
    caption_keys,
    fill_form,
    forms_of,
    true_pairs,
)
from evclip_ray.world.figure import CLOTHES, Look
from evclip_ray.world.pretraining.corpus import action_names, open_corpus
from evclip_ray.world.pretraining.frames import Augmentation, FrameStore, Normalisation, scaled, sent
from evclip_ray.world.pretraining.recipe import Training
from evclip_ray.world.pretraining.scores import ScoreSet, zero_shot_scores
from evclip_ray.world.pretraining.words import caption_words

_NUM_FORMS = len(CAPTION_FORMS) + len(HALF_FORMS)
_MAX_LOGIT_SCALE = float(np.log(100))


class ClipTask:
    """Loss and scores of a world CLIP.

    Args:
        name: Row of BACKBONES.
        training: Optimisation.
        corpus: Folder of the stills.
        device: Device of the training.
    """

    model: Any

    def __init__(self, name: str, training: Training, corpus: Path, device: torch.device) -> None:
        self.name, self.training, self.device = name, training, device
        self.tokenizer = WorldTokenizer(caption_words())
        self.model = world_model(name, self.tokenizer.vocab_size).to(device)
        # Convolutions in bfloat16 are 1.5 times as fast with channels last.
        self.model.visual.to(memory_format=torch.channels_last)
        arrays = open_corpus(corpus)
        self._frames = FrameStore(arrays.frames, device)
        self._labels = torch.from_numpy(np.array(arrays.labels, np.int64)).to(device)
        cfg = self.model.visual.preprocess_cfg
        self._normalised = Normalisation(cfg["mean"], cfg["std"], device)
        texts = _all_captions()
        self._tokens = self.tokenizer(texts, self.model.context_length).to(device)
        self._keys = torch.from_numpy(caption_keys(texts)).to(device)

    @property
    def module(self) -> nn.Module:
        """Trained module."""
        model: nn.Module = self.model
        return model

    def loss(self, _step: int, random: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of one random batch under "loss"."""
        indices = random.integers(len(self._labels), size=self.training.batch)
        labels = self._labels[sent(indices, self.device)]
        forms = random.integers(_NUM_FORMS, size=len(indices))
        rows = _caption_row(sent(forms, self.device), labels)
        augmentation = Augmentation(len(indices), random, self.device)
        images = self._prepared(augmentation.frames(self._frames[indices]))
        with torch.autocast(self.device.type, torch.bfloat16):
            image_features = self.model.encode_image(images, normalize=True)
            text_features = self.model.encode_text(self._tokens[rows], normalize=True)
        logits = self.model.logit_scale.exp() * image_features.float() @ text_features.float().T
        pairs = true_pairs(labels[:, 1:], self._keys[rows]).float()
        return {"loss": (_cross_entropy(logits, pairs) + _cross_entropy(logits.T, pairs.T)) / 2}

    def package_state(self) -> dict[str, Tensor]:
        """Return the tensors under open_clip's names."""
        state: dict[str, Tensor] = self.model.state_dict()
        return state

    def after_step(self) -> None:
        """Limit the factor of the logits to 100, as CLIP does."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)

    def scores(self, sets: Sequence[ScoreSet]) -> dict[str, dict[str, float]]:
        """Return the zero-shot accuracy of each set."""
        self.model.eval()
        with torch.no_grad():
            result = {
                held.name: zero_shot_scores(
                    held, self._encode_frames, self._encode_texts, action_names(held.corpus.held_out)
                )
                for held in sets
            }
        self.model.train()
        return result

    def _prepared(self, frames: Tensor) -> Tensor:
        images = self._normalised(frames).flatten(0, 1)
        return images.contiguous(memory_format=torch.channels_last)

    def _encode_frames(self, frames: Tensor) -> Tensor:
        images = self._prepared(scaled(frames.to(self.device)))
        with torch.autocast(self.device.type, torch.bfloat16):
            features: Tensor = self.model.encode_image(images)
        per_video: Tensor = features.float().unflatten(0, frames.shape[:2])
        return per_video

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(texts, self.model.context_length).to(self.device)
        features: Tensor = self.model.encode_text(tokens, normalize=True)
        return features


def _cross_entropy(logits: Tensor, pairs: Tensor) -> Tensor:
    # Every still has at least one true caption in the batch, its own.
    return F.cross_entropy(logits, pairs / pairs.sum(1, keepdim=True))


def _all_captions() -> list[Caption]:
    # All captions of all forms, 40,000: drawing a caption is then one index, also on a GPU.
    looks = [
        cast(Look, types.SimpleNamespace(shirt=shirt, trousers=trousers))
        for shirt in CLOTHES
        for trousers in CLOTHES
    ]
    # An action of the whole body has fewer forms: some of them fill the places of the others.
    return [
        fill_form(forms_of(action)[form % len(forms_of(action))], action, look)
        for form in range(_NUM_FORMS)
        for action in ACTIONS
        for look in looks
    ]


def _caption_row(forms: Any, labels: Any) -> Any:
    action, shirt, trousers = labels[:, 0], labels[:, 2], labels[:, 3]
    return ((forms * len(ACTIONS) + action) * len(CLOTHES) + shirt) * len(CLOTHES) + trousers
