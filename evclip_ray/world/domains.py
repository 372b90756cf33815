"""Domains of the small world: what makes a data set hard, and by how much."""

from dataclasses import dataclass

from evclip_ray.config import ConfigError, nearest
from evclip_ray.world.actions import ACTIONS

_TAIL_EXPONENT = 1.5


@dataclass(frozen=True)
class Domain:
    """Visual or statistical difficulty with a dial from 0 to 1. At 0 it equals `plain`.

    Args:
        name: name of the domain.
        description: one sentence for help texts and docs.
        changes_pictures: True if the dial changes the pictures of a scene.
        order_pairs_only: True if the classes differ only in the order of the frames.
        tail_exponent: exponent of the power law of the class frequencies at dial 1.
    """

    name: str
    description: str
    changes_pictures: bool = False
    order_pairs_only: bool = False
    tail_exponent: float = 0.0

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions that a data set of this domain may use."""
        return tuple(
            name for name, action in ACTIONS.items() if action.reverse_of or not self.order_pairs_only
        )

    def class_share(self, rank: int, dial: float = 1.0) -> float:
        """Return the number of videos of a class relative to the most frequent class.

        share = (rank + 1) ** -(exponent * dial), where `exponent` is 1.5 for `long_tail` and 0 elsewhere.

        Args:
            rank: rank of the class by frequency, 0 for the most frequent.
            dial: strength from 0 to 1. At 0 all classes are equally frequent.
        """
        return float((rank + 1) ** -(self.tail_exponent * check_dial(dial)))


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("plain", "One person in front of a textured background with a few flat objects."),
        Domain("dark", "Little light, a colour cast and sensor noise.", changes_pictures=True),
        Domain(
            "egocentric",
            "A camera that walks, zooms and rolls, with the wearer's hands.",
            changes_pictures=True,
        ),
        Domain(
            "clutter", "A second person who idles in another pose, and moving discs.", changes_pictures=True
        ),
        Domain(
            "temporal",
            "Plain scenes whose classes differ only in the order of frames.",
            order_pairs_only=True,
        ),
        Domain(
            "long_tail",
            "Plain scenes whose class frequencies follow a power law.",
            tail_exponent=_TAIL_EXPONENT,
        ),
    )
}


def find_domain(name: str) -> Domain:
    """Return the domain with this name.

    Raises:
        ConfigError: unknown name. The message names the nearest domain.
    """
    if name not in DOMAINS:
        raise ConfigError(f"domain {name!r} is unknown; {nearest(name, list(DOMAINS))}")
    return DOMAINS[name]


def check_dial(dial: float) -> float:
    """Return the dial if it is from 0 to 1.

    Raises:
        ConfigError: the dial is outside 0 to 1.
    """
    if not 0 <= dial <= 1:
        raise ConfigError(f"dial is {dial}; use a number from 0 (as plain) to 1 (the hardest)")
    return float(dial)
