"""Recipe of the pretraining: corpora, sizes and optimisation. The model card records it."""

import dataclasses
from typing import Any

SIZE = 96
"""Side of a frame in pixels."""
NUM_FRAMES = 8
CELL = 16
"""Side of a cell of the video network's map in pixels."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Set of drawn stills or clips.

    Attributes:
        count: Number of stills or clips.
        num_frames: Frames of each; 1 draws stills at a time at which the action is visible.
        seed: First number of every scene's seed.
        domains: Domains that take turns.
        dials: Range of the domain's dial, from which every scene draws its own.
        held_out: Whether the actions are the held-out ones instead of all others.
    """

    count: int
    num_frames: int
    seed: int
    domains: tuple[str, ...] = ("plain",)
    dials: tuple[float, float] = (1.0, 1.0)
    held_out: bool = False


@dataclasses.dataclass(frozen=True)
class Training:
    """Optimisation of one network: AdamW in bfloat16, linear warm-up and cosine decay to zero.

    Attributes:
        corpus: Name of the corpus.
        samples: Stills or clips seen.
        batch: Stills or clips per step.
        lr: Highest learning rate.
        weight_decay: Weight decay of matrices. Biases, norms and the logit scale have none.
        warmup: Share of the steps with rising learning rate.
        seed: Seed of initial weights, order, captions and augmentation.
        plain_share: Share of the steps, the first ones, that see the corpus's first domain only.
        clip_norm: Largest norm of the gradient; None for no limit.
        average: Share of the old average that a step keeps in the moving average of the weights, which is
            what is scored and saved.
        difference_share: Share of the first layer's channels of a video network that begin as differences of
            the two frames of a patch.
        mask_weight: Weight of the loss on the acting figure's share of each cell; 0 uses no masks.
    """

    corpus: str
    samples: int
    batch: int
    lr: float
    weight_decay: float
    warmup: float = 0.05
    seed: int = 0
    plain_share: float = 0.0
    clip_norm: float | None = None
    average: float = 0.999
    difference_share: float = 0.5
    mask_weight: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return max(1, self.samples // self.batch)


CORPORA = {
    # Every difficulty of a single picture. A network that saw only plain and cluttered scenes was at chance
    # in the dark and with a moving camera.
    "clips": Corpus(
        48_000, NUM_FRAMES, seed=12, domains=("plain", "clutter", "dark", "egocentric"), dials=(0.2, 1.0)
    ),
    "stills": Corpus(250_000, 1, seed=11),
}
"""Corpora by name, in the order in which they are drawn."""

SCORE_SETS = {
    "held-out plain": Corpus(512, NUM_FRAMES, seed=101, held_out=True),
    "held-out clutter": Corpus(512, NUM_FRAMES, seed=102, domains=("clutter",), held_out=True),
    "held-out dark": Corpus(512, NUM_FRAMES, seed=103, domains=("dark",), held_out=True),
    "held-out egocentric": Corpus(512, NUM_FRAMES, seed=104, domains=("egocentric",), held_out=True),
    "seen plain": Corpus(800, NUM_FRAMES, seed=105),
    "seen clutter": Corpus(800, NUM_FRAMES, seed=106, domains=("clutter",)),
    "seen dark": Corpus(800, NUM_FRAMES, seed=107, domains=("dark",), dials=(0.7, 0.7)),
    "seen egocentric": Corpus(800, NUM_FRAMES, seed=108, domains=("egocentric",)),
}
"""Sets of the scores in the model card. No seed is shared with a corpus."""

_CLIP = Training("stills", 800_000, batch=256, lr=1.5e-3, weight_decay=0.1)
# With all first-layer channels as differences, a still background gives equal tokens. Otherwise, colours
# outweigh motion and cross entropy alone stays at chance.
_VIDEO = Training(
    "clips",
    240_000,
    batch=64,
    lr=1e-3,
    weight_decay=0.05,
    plain_share=0.3,
    clip_norm=1.0,
    difference_share=1.0,
)

TRAININGS = {
    "swin3d_world": _VIDEO,
    "swin3d_world_masks": dataclasses.replace(_VIDEO, mask_weight=3.0),
    "world-m": _CLIP,
    "world-s": _CLIP,
    "world-xs": _CLIP,
}
"""Trainings by the name of the row that they make."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Corpora and trainings, scaled for trials.

    Attributes:
        scale: Factor of all numbers of stills, clips and samples; 1 is the recipe of the shipped weights.
    """

    scale: float = 1.0

    def corpus(self, name: str) -> Corpus:
        """Return the corpus or the score set `name`."""
        corpus = {**CORPORA, **SCORE_SETS}[name]
        return dataclasses.replace(corpus, count=max(16, round(corpus.count * min(1.0, self.scale))))

    def training(self, name: str) -> Training:
        """Return the training of the row `name`."""
        training = TRAININGS[name]
        return dataclasses.replace(training, samples=round(training.samples * self.scale))

    def describe(self) -> dict[str, Any]:
        """Return the recipe as JSON-like values."""
        return {
            "scale": self.scale,
            "corpora": {name: dataclasses.asdict(self.corpus(name)) for name in CORPORA},
            "trainings": {name: dataclasses.asdict(self.training(name)) for name in TRAININGS},
        }
