"""What a study needs of a cluster, as far as a file can tell."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evclip_ray.training.resources import ResourceRequest, concurrent_trials

if TYPE_CHECKING:
    # Reading a space needs torch; checking a file does not.
    from evclip_ray.tuning.search_space import SearchSpace

DISK_GB = 60
"""Of each node: the image (8 GB for CUDA), weights, Ray's logs and what is copied to the node."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """`space`: None where no study is named. `storage`: the folder that all nodes are to share."""

    space: "SearchSpace | None" = None
    storage: Path = Path("/shared")

    def asks_gpus(self, machines: Sequence[Mapping[str, float]]) -> bool:
        """Whether trials would ask for GPUs on these machines."""
        return self.request(machines).gpus > 0

    def request(self, machines: Sequence[Mapping[str, float]]) -> ResourceRequest:
        """What a worker of a trial asks for; as the study itself decides it."""
        assert self.space is not None
        return self.space.study.request(machines)

    def placement_problem(self, machines: Sequence[Mapping[str, float]]) -> str | None:
        """Why no trial of the space can ever be placed on these machines, if so."""
        if self.space is None:
            return None
        try:
            concurrent_trials(self.request(machines), machines)
        except ValueError as error:
            return str(error)
        return None

    @property
    def wants_bfloat16(self) -> bool:
        """Whether the space says bfloat16 in so many words."""
        return self.space is not None and self.space.experiment().precision == "bfloat16"
