"""Requirements of a study on a cluster, as far as a cluster file can show whether they are met."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evclip_ray.training.resources import concurrent_trials

if TYPE_CHECKING:
    # Importing the search space loads torch, which checking a file does not need.
    from evclip_ray.tuning.search_space import SearchSpace

MIN_DISK_GB = 60
"""Disk of a node for the CUDA image (8 GB), weights, Ray's logs and node-local copies."""


@dataclasses.dataclass(frozen=True)
class Requirements:
    """The search space of a study (None: no study is given) and the folder that all nodes share."""

    space: "SearchSpace | None" = None
    storage: Path = Path("/shared")

    def uses_gpus(self, machines: Sequence[Mapping[str, float]]) -> bool:
        """Return whether trials request GPUs on machines with these Ray resources."""
        assert self.space is not None
        return self.space.study.request(machines).gpus > 0

    def placement_problem(self, machines: Sequence[Mapping[str, float]]) -> str | None:
        """Return why no trial fits on machines with these Ray resources, None if one fits."""
        if self.space is None:
            return None
        try:
            concurrent_trials(self.space.study.request(machines), machines)
        except ValueError as error:
            return str(error)
        return None
