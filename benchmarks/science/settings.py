"""Data sets of the small world and settings of the runs, equal for all runs.

The documentation says how they were chosen: docs/science/index.md.
"""

import dataclasses
from typing import Any

DOMAINS = ("plain", "egocentric", "temporal", "long_tail", "clutter", "dark")
"""Domains of the small world, those of claim (c) last."""

SHOTS = 8
TEST_VIDEOS = 8
STANDARD_DIAL = {"dark": 0.7}
"""Dial of a domain where it is not 1. At dial 1 of the dark, zero-shot CLIP is at chance."""
CLASSES = 30


@dataclasses.dataclass(frozen=True)
class WorldSet:
    """One data set of the small world.

    Attributes:
        domain: Name of the visual difficulty.
        dial: Strength of the difficulty.
        held_out_only: Whether it has the actions that the pretraining never saw, and no others.
        train_videos: Training videos per class.
        test_videos: Test videos per class.
        seed: Seed of the figures and scenes.
    """

    domain: str
    dial: float = 1.0
    held_out_only: bool = False
    train_videos: int = SHOTS
    test_videos: int = TEST_VIDEOS
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of an experiment on these videos, by dotted path."""
        fields = dataclasses.asdict(self)
        if not self.seed:
            # The default is left out, so that the records of these videos are found again.
            del fields["seed"]
        return {f"data.world.{name}": value for name, value in fields.items()} | {"data.world.val_videos": 0}

    @property
    def num_classes(self) -> int:
        """Number of classes, for the expected time."""
        return 8 if self.held_out_only else 14 if self.domain == "temporal" else CLASSES

    @property
    def name(self) -> str:
        """Short name for messages and tables."""
        kind = " (held-out actions)" if self.held_out_only else ""
        dial = "" if self.dial == 1 else f" {self.dial:g}"
        return f"{self.domain}{dial}{kind}{f' of seed {self.seed}' if self.seed else ''}"


def world_set(domain: str, dial: float | None = None) -> WorldSet:
    """Return the data set of a domain that the claims share.

    Args:
        domain: Name of the domain.
        dial: Strength; None takes that of the domain, see `STANDARD_DIAL`.
    """
    standard = STANDARD_DIAL.get(domain, 1.0)
    dial = standard if dial is None else dial
    # A dial of 0 is the plain set itself, whose runs are not repeated.
    if dial == 0:
        domain, dial = "plain", 1.0
    # Twice the training videos where seeds draw different ones, and where K = 16 is measured.
    many = dial == standard and domain in ("clutter", "dark")
    return WorldSet(domain, dial, train_videos=2 * SHOTS if many else SHOTS)


HELD_OUT = {
    domain: WorldSet(
        domain, STANDARD_DIAL.get(domain, 1.0), held_out_only=True, train_videos=1, test_videos=30
    )
    for domain in ("plain", "clutter", "dark")
}
"""Data sets of the held-out actions: 240 test videos of 8 classes."""

SEARCHES = WorldSet("clutter", train_videos=12)
"""Data set of a repeated search, drawn with another seed for each: studies that share videos also share the
error of these videos, and no number of studies averages it out. A third of the training videos validates."""

BASE: dict[str, Any] = {
    # The last epoch counts, so that no video selects anything.
    "data.selection": "last_epoch",
    "data.shots": SHOTS,
    # A new view in every epoch. A mirror image is another action: "left" is the left of the picture.
    "data.augment.crop": "random",
    "data.augment.flip": 0.0,
    "data.augment.brightness": 0.15,
    "view.num_frames": 8,
    "backbone.name": "world-s",
    "backbone.pretrained": "world",
    # A mask generator that is trained on the true masks themselves needs 300 to 450 steps before it leaves
    # the average precision of noise, so batches are small: 600 steps of 240 videos.
    "optim.epochs": 20,
    "optim.batch_size": 8,
    "optim.lr": 1e-3,
}
_EV_CLIP = {
    "method.name": "ev_clip",
    "method.mask.start": "open",
    # Divides the maps of 12 and 24 positions; 7 would fill them up to 14 and 28.
    "method.mask.window": 6,
    # Its pretraining saw true masks. Claim (d) is also made on the network whose pretraining did not.
    "method.video_encoder.name": "swin3d_world_masks",
    "method.video_encoder.weights": "world",
    "optim.scalar_lr_factor": 30.0,
}
# Features of fixed views are computed once, and epochs cost next to nothing.
_CACHED = {"data.bank": 4, "optim.epochs": 40}

METHODS: dict[str, dict[str, Any]] = {
    # With 30, the training loss of the mask alone stays above that of chance. The context needs 30.
    "mask": {**_EV_CLIP, "method.prompts": "mask", "optim.scalar_lr_factor": 10.0},
    "context": {**_EV_CLIP, "method.prompts": "context"},
    "both": {**_EV_CLIP, "method.prompts": "both"},
    "linear_probe": {**_CACHED, "method.name": "linear_probe", "optim.lr": 1e-2},
    "prototype": {**_CACHED, "method.name": "prototype", "optim.lr": 1e-2},
    "coop": {**_CACHED, "method.name": "coop", "optim.lr": 2e-3},
    "motion_prompts": {**_CACHED, "method.name": "motion_prompts", "method.mode": "late"},
    "fine_tune": {"method.name": "fine_tune", "optim.lr": 1e-4},
}
"""Method -> settings on top of `BASE`."""
EV_CLIP = ("mask", "context", "both")


def epochs_for(shots: int) -> int:
    """Return the epochs of a run with K shots: at least as many steps as the runs with `SHOTS` have."""
    return max(BASE["optim.epochs"], round(BASE["optim.epochs"] * SHOTS / shots))
