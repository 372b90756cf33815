"""Experiments and the claims that read them.

An experiment is a kind of measurement, a data set, overrides and a seed. Its key is the digest of all of
them, so a record is found again as long as nothing changes, and claims share equal experiments.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from evclip_ray.artifacts import digest
from evclip_ray.config import ConfigError
from evclip_ray.models.world_weights import world_origin
from evclip_ray.world.data_set import world_folder
from evclip_ray.world.settings import WorldConfig

from .settings import (
    BASE,
    DOMAINS,
    EV_CLIP,
    HELD_OUT,
    METHODS,
    SEARCHES,
    SHOTS,
    WorldSet,
    epochs_for,
    world_set,
)

Kind = Literal["train", "zero_shot", "true_mask", "untrained", "factors", "search"]

SEEDS = (0, 1, 2)
DIALS = (0.0, 0.25, 0.5, 0.75, 1.0)
DIAL_DOMAINS = ("dark", "clutter", "egocentric")
CONSISTENCY = (0.0, 0.1, 1.0, 10.0)
ALL_SHOTS = (1, 2, 4, 8, 16)
SIZES = ("world-xs", "world-s", "world-m")
SIZE_DOMAINS = ("clutter", "dark")
STUDIES = 24

# Expected seconds on one quiet core of an AMD EPYC.
_DRAW, _VIEW, _STEP, _START = 0.06, 0.013, 0.026, 6.0
_STUDY, _CACHED_RUN = 30.0, 30.0
_SIZE_COST = {"world-xs": 0.8, "world-s": 1.0, "world-m": 1.3}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One measurement.

    Attributes:
        kind: What is measured, see `execute.EXECUTORS`.
        world: Videos.
        settings: Overrides on `BASE`, by dotted path.
        seed: Seed of the run and of the draw of its K shots.
    """

    kind: Kind
    world: WorldSet
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    @property
    def overrides(self) -> dict[str, Any]:
        """All settings of the run, by dotted path."""
        seeds = {"seed": self.seed, "data.split_seed": self.seed}
        settings = {**BASE, **self.world.settings, **seeds, **self.settings}
        # The K shots of a long tail are those that its classes have.
        if self.world.domain == "long_tail":
            settings.pop("data.shots")
        return settings

    @property
    def key(self) -> str:
        """Digest of everything that is set, of the videos and of the weights."""
        settings = self.overrides
        networks = [settings["backbone.name"], settings.get("method.video_encoder.name")]
        return digest(
            {
                "kind": self.kind,
                "settings": settings,
                # Scenes that are drawn in another way have other folders, and new weights other origins.
                "videos": _videos_of(self.world),
                "weights": [_origin(name) for name in networks if name is not None],
            }
        )

    @property
    def name(self) -> str:
        """Short description for messages."""
        varied = {
            path.rpartition(".")[2]: value
            for path, value in self.settings.items()
            if path not in _QUIET and (path, value) not in _USUAL
        }
        parts = [self.kind, self.world.name, *(f"{name}={value}" for name, value in varied.items())]
        return " ".join(map(str, parts)) + f" seed {self.seed}"

    @property
    def seconds(self) -> float:
        """Expected time on one core, without the preparation of the videos."""
        settings = self.overrides
        scale = _SIZE_COST.get(settings["backbone.name"], 1.0)
        tests = self.world.num_classes * self.world.test_videos
        if self.kind == "search":
            return _STUDY
        if self.kind == "factors":
            return _START + tests * 0.15
        if self.kind != "train":
            return _START + 2 * tests * _VIEW * scale
        # Runs on cached features share them with others on the same videos.
        if settings.get("data.bank"):
            return _CACHED_RUN
        train = self.world.num_classes * settings.get("data.shots", SHOTS)
        return _START + (train * settings["optim.epochs"] * _STEP + 3 * tests * _VIEW) * scale


_QUIET = frozenset({"optim.lr", "optim.scalar_lr_factor", "optim.epochs", "data.bank", "method.mode"})
_USUAL = METHODS["mask"].items() - {("method.name", "ev_clip"), ("method.prompts", "mask")}


@functools.cache
def _videos_of(world: WorldSet) -> str:
    settings = {path.rpartition(".")[2]: value for path, value in world.settings.items()}
    return world_folder(WorldConfig.load(settings), Path()).name


@functools.cache
def _origin(network: str) -> str:
    try:
        return world_origin(network)
    except ConfigError:
        # A dry run needs no weights; an experiment without them fails with this error.
        return "none"


def preparation_seconds(world: WorldSet) -> float:
    """Return the expected time on one core to draw, encode and decode the videos of a data set."""
    return world.num_classes * (world.train_videos + world.test_videos) * _DRAW


def trained(
    method: str,
    world: WorldSet,
    seed: int,
    *,
    shots: int = SHOTS,
    settings: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return the training and evaluation of a method.

    Args:
        method: Key of `METHODS`.
        world: Videos.
        seed: Seed of the run and of its K shots.
        shots: K.
        settings: Further overrides.
    """
    varied: dict[str, Any] = {**METHODS[method], **(settings or {})}
    if shots != SHOTS:
        varied |= {"data.shots": shots}
        # Cached features make epochs free, so these methods have enough of them anyway.
        varied.setdefault("optim.epochs", epochs_for(shots))
    return Experiment("train", world, varied, seed)


def zero_shot_on(world: WorldSet, backbone: str = BASE["backbone.name"]) -> Experiment:
    """Return the zero-shot accuracy of a size of the small world's CLIP on a data set."""
    return Experiment("zero_shot", world, _of_backbone(backbone))


def _of_backbone(name: str) -> dict[str, Any]:
    return {} if name == BASE["backbone.name"] else {"backbone.name": name}


def _held_out(domains: Iterable[str]) -> Iterator[Experiment]:
    return (zero_shot_on(HELD_OUT[domain]) for domain in domains)


def _few_shot(seeds: Iterable[int]) -> Iterator[Experiment]:
    for seed in seeds:
        for domain in ("clutter", "dark"):
            for shots in (SHOTS, SHOTS // 2):
                yield trained("both", world_set(domain), seed, shots=shots)


def _masks(seeds: Iterable[int]) -> Iterator[Experiment]:
    world = world_set("clutter")
    yield Experiment("true_mask", world)
    for seed in seeds:
        yield trained("mask", world, seed)
        yield Experiment("untrained", world, METHODS["mask"], seed)
        yield without_mask_supervision(seed)


def without_mask_supervision(seed: int) -> Experiment:
    """Return the run of claim (d) on the video network whose pretraining saw no true masks."""
    network = {"method.video_encoder.name": "swin3d_world"}
    return trained("mask", world_set("clutter"), seed, settings=network)


def _prompts(seeds: Iterable[int]) -> Iterator[Experiment]:
    for seed in seeds:
        for domain in reversed(DOMAINS):
            for method in EV_CLIP:
                yield trained(method, world_set(domain), seed)


def with_consistency(weight: float, seed: int) -> Experiment:
    """Return the run of claim (f) with a weight of the consistency loss."""
    # 0.1 is the default: the run of claims (c) and (e).
    settings = {} if weight == 0.1 else {"method.consistency_weight": weight}
    return trained("both", world_set("clutter"), seed, settings=settings)


def _consistency(seeds: Iterable[int]) -> Iterator[Experiment]:
    return (with_consistency(weight, seed) for seed in seeds for weight in CONSISTENCY)


def _methods(seeds: Iterable[int]) -> Iterator[Experiment]:
    for domain in DOMAINS:
        for method in METHODS:
            chosen = seeds if method in seeds_of else list(seeds)[:1]
            yield from (trained(method, world_set(domain), seed) for seed in chosen)


seeds_of = frozenset(METHODS) - {"fine_tune"}
"""Methods that claim (g) measures with all seeds. The others cost too much and have one."""


def _dials(seeds: Iterable[int]) -> Iterator[Experiment]:
    for domain in DIAL_DOMAINS:
        for dial in DIALS:
            yield trained("both", world_set(domain, dial), next(iter(seeds)))
            yield Experiment("factors", world_set(domain, dial))


def study(number: int) -> Experiment:
    """Return one small search of claim (i), on its own training, validation and test videos."""
    world = dataclasses.replace(SEARCHES, seed=number + 1)
    return Experiment("search", world, {**METHODS["context"], "data.bank": 4}, number)


def of_size(backbone: str, domain: str, seed: int) -> Experiment:
    """Return the run of claim (j) on a size of the small world's CLIP."""
    return trained("both", world_set(domain), seed, settings=_of_backbone(backbone))


def _scaling(seeds: Iterable[int]) -> Iterator[Experiment]:
    for seed in seeds:
        yield from (trained("both", world_set("clutter"), seed, shots=shots) for shots in ALL_SHOTS)
        yield from (of_size(backbone, domain, seed) for domain in SIZE_DOMAINS for backbone in SIZES)
    yield from (zero_shot_on(world_set("plain"), backbone) for backbone in SIZES)


CLAIMS = tuple("abcdefghij")


def experiments_of(claim: str, seeds: Iterable[int] = SEEDS) -> list[Experiment]:
    """Return the experiments of a claim, those of the first seed first where seeds are alike.

    Args:
        claim: Letter of the claim.
        seeds: Seeds of the trainings.
    """
    chosen = tuple(seeds)
    by_claim = {
        "a": lambda: _held_out(["plain"]),
        "b": lambda: _held_out(["clutter", "dark"]),
        "c": lambda: _few_shot(chosen),
        "d": lambda: _masks(chosen),
        "e": lambda: _prompts(chosen),
        "f": lambda: _consistency(chosen),
        "g": lambda: _methods(chosen),
        "h": lambda: _dials(chosen),
        "i": lambda: (study(number) for number in range(STUDIES)),
        "j": lambda: _scaling(chosen),
    }
    return list(by_claim[claim]())


def all_experiments(claims: Iterable[str], seeds: Iterable[int] = SEEDS) -> list[Experiment]:
    """Return the experiments of claims, each once, in the order in which they run."""
    seeds = tuple(seeds)
    listed = (experiment for claim in claims for experiment in experiments_of(claim, seeds))
    return list({experiment.key: experiment for experiment in listed}.values())
