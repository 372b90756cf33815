"""Simulated cluster: clock, machines, shared storage, and the state of each GPU."""

import dataclasses

import simpy

from simulation.link import Link
from simulation.nodes import Node
from simulation.plan import ClusterPlan
from simulation.timesheet import Timesheet


@dataclasses.dataclass
class Driver:
    """Process that handles one request at a time, in order of arrival."""

    env: simpy.Environment
    busy_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._turn = simpy.Resource(self.env)

    def work(self, seconds: float) -> simpy.events.ProcessGenerator:
        """Wait until the driver is free, then occupy it for `seconds`."""
        with self._turn.request() as turn:
            yield turn
            yield self.env.timeout(seconds)
        self.busy_seconds += seconds


class Site:
    """Cluster with `num_gpus` GPUs on the smallest number of machines."""

    def __init__(self, plan: ClusterPlan, num_gpus: int) -> None:
        costs = plan.cluster
        self.plan, self.num_gpus = plan, num_gpus
        self.env = simpy.Environment()
        self.storage = Link(self.env, total=costs.storage_bytes, each=costs.network_bytes)
        self.timesheet = Timesheet(self.env, num_gpus)
        self.driver = Driver(self.env)
        self.nodes = [
            Node(
                up=costs.node_start_seconds,
                start_seconds=costs.node_start_seconds,
                losses_per_hour=costs.losses_per_hour,
                seed=(plan.study.seed, number),
            )
            for number in range(-(-num_gpus // costs.gpus_per_node))
        ]

    def node_of(self, gpu: int) -> Node:
        """Return the machine of a GPU."""
        return self.nodes[gpu // self.plan.cluster.gpus_per_node]

    @property
    def cores(self) -> int:
        """CPU cores of all machines."""
        costs = self.plan.cluster
        return len(self.nodes) * costs.cpus_per_node + costs.cpu_nodes * costs.cpus_per_cpu_node
