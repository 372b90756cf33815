"""Settings of a data set of the small world, the section `data.world` of an experiment."""

from typing import Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from evclip_ray.artifacts import digest
from evclip_ray.config import Config, ConfigError
from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.domains import find_domain

_DEFAULT_CLASSES = 30


class WorldConfig(Config):
    """Videos of the small world: mp4 files with splits, groups and true masks, drawn into the cache."""

    domain: str = Field("plain", description="visual or statistical difficulty, a key of DOMAINS")
    dial: float = Field(1.0, ge=0, le=1, description="strength of the difficulty; at 0 it equals 'plain'")
    classes: int | None = Field(
        None,
        ge=2,
        description="number of classes, those first that the pretraining never saw; None is 30, or all where "
        "there are fewer",
    )
    held_out_only: bool = Field(
        False, description="whether to use only classes that the small towers' pretraining never saw"
    )
    train_videos: int = Field(
        8, ge=1, description="training videos per class; their mean over the classes of 'long_tail'"
    )
    val_videos: int = Field(4, ge=0, description="validation videos per class; 0 makes no such split")
    test_videos: int = Field(8, ge=1, description="test videos per class")
    # The short side that is stored for an input of 96 pixels, so that frames are not resampled.
    size: int = Field(110, ge=32, multiple_of=2, description="side of a frame in pixels, an even number")
    num_frames: int = Field(24, ge=8, description="frames of a video, at 12 per second")
    seed: int = Field(0, ge=0, description="seed of the videos; domains and dials share their figures")

    @field_validator("domain")
    @classmethod
    def _domain_exists(cls, domain: str) -> str:
        return find_domain(domain).name

    @model_validator(mode="after")
    def _classes_exist(self) -> Self:
        self.class_names()
        return self

    def class_names(self) -> tuple[str, ...]:
        """Return the classes, of which a smaller number is a prefix.

        No two of them look the same in single frames, except in `temporal`, where each class has its reverse.

        Raises:
            ConfigError: There are fewer classes, or their number is odd in `temporal`.
        """
        has_pairs = find_domain(self.domain).order_pairs_only
        listed: dict[str, tuple[str, ...]] = {}
        for name in find_domain(self.domain).actions:
            reverse = ACTIONS[name].reverse_of
            if reverse not in listed:
                listed[name] = (name, str(reverse)) if has_pairs else (name,)
        chosen = [name for name in listed if ACTIONS[name].held_out or not self.held_out_only]
        # Sorted by digest, so that a few classes have several motions and parts of the body.
        chosen.sort(key=lambda name: (not ACTIONS[name].held_out, digest(name)))
        names = [name for first in chosen for name in listed[first]]
        count = min(_DEFAULT_CLASSES, len(names)) if self.classes is None else self.classes
        if count < 2 or count > len(names):
            kind = "held-out classes" if self.held_out_only else "classes"
            fix = f"use at most {len(names)}" if names else "set held_out_only to false"
            raise ConfigError(
                f"classes is {self.classes}, but the domain {self.domain!r} has {len(names)} {kind}; {fix}"
            )
        if has_pairs and count % 2:
            raise ConfigError(
                f"classes is {count}, but the classes of {self.domain!r} are pairs; use {count + 1}"
            )
        return tuple(names[:count])

    def train_counts(self) -> tuple[int, ...]:
        """Return the number of training videos of each class, in the order of `class_names`.

            videos = max(1, round(N K share / sum of all shares))

        where N is the number of classes, K is `train_videos`, and `share` is `Domain.class_share` of the rank
        of a class. Ranks are drawn.
        """
        domain, count = find_domain(self.domain), len(self.class_names())
        ranks = np.random.default_rng([self.seed, count]).permutation(count).tolist()
        shares = [domain.class_share(rank, self.dial) for rank in ranks]
        return tuple(max(1, round(count * self.train_videos * share / sum(shares))) for share in shares)
