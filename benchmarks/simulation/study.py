"""Simulation of a study on a number of GPUs: its time and the use of the GPUs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from simulation.curves import Curves
from simulation.plan import ClusterPlan
from simulation.preparation import prepare
from simulation.site import Site
from simulation.timesheet import BUSY, Doing
from simulation.trials import SimulatedTrial, Trials


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Result of a study on `num_gpus` GPUs.

    Attributes:
        num_gpus: Number of GPUs.
        seconds: Time from requesting the machines until the end.
        preparation_seconds: Time before the driver starts.
        gpu_seconds: Time of all GPUs in each state; the sum is `num_gpus` x `seconds`.
        driver_seconds: Time in which the driver works.
        storage_bytes: Bytes read and written.
        storage_busy_seconds: Time weighted by the used share of the storage's rate.
        trials: Trials in the order in which they began.
        heard: (trial, epoch, decision) in the order in which the driver received the results.
    """

    num_gpus: int
    seconds: float
    preparation_seconds: float
    gpu_seconds: Mapping[Doing, float]
    driver_seconds: float
    storage_bytes: float
    storage_busy_seconds: float
    trials: Sequence[SimulatedTrial]
    heard: Sequence[tuple[int, int, str]]

    @property
    def busy_share(self) -> float:
        """Share of the GPUs' time in which they work."""
        return sum(self.gpu_seconds[doing] for doing in BUSY) / sum(self.gpu_seconds.values())

    @property
    def driver_share(self) -> float:
        """Share of the time after the preparation in which the driver works."""
        return self.driver_seconds / (self.seconds - self.preparation_seconds)

    @property
    def storage_share(self) -> float:
        """Mean used share of the storage's rate."""
        return self.storage_busy_seconds / self.seconds

    def idle(self) -> list[tuple[Doing, float]]:
        """Return the reasons of idle GPUs with their share of all GPU time, the largest first."""
        total = sum(self.gpu_seconds.values())
        shares = [(doing, spent / total) for doing, spent in self.gpu_seconds.items() if doing not in BUSY]
        return sorted(shares, key=lambda pair: -pair[1])

    def row(self) -> dict[str, Any]:
        """Return a row of a table. Bytes and rates are in GB (10^9 bytes)."""
        return {
            "gpus": self.num_gpus,
            "seconds": self.seconds,
            "preparation_seconds": self.preparation_seconds,
            "gpu_idle_share": 1 - self.busy_share,
            "driver_busy_share": self.driver_share,
            "storage_busy_share": self.storage_share,
            "storage_gb": self.storage_bytes / 1e9,
            "storage_gb_per_second": self.storage_bytes / 1e9 / self.seconds,
            "network_gb_per_second_and_gpu": self.storage_bytes / 1e9 / self.seconds / self.num_gpus,
            "trials_stopped": sum(trial.stopped for trial in self.trials),
            "epochs": sum(trial.epochs for trial in self.trials),
            "times_lost": sum(trial.lost for trial in self.trials),
            **{f"idle: {doing.value}": share for doing, share in self.idle()},
        }


def simulate(plan: ClusterPlan, num_gpus: int) -> Simulated:
    """Simulate a plan on `num_gpus` GPUs. The same plan gives the same numbers.

    Raises:
        ValueError: `num_gpus` is less than 1.
    """
    if num_gpus < 1:
        raise ValueError(f"a simulated cluster needs 1 GPU or more, got {num_gpus}")
    site = Site(plan, num_gpus)
    trials = Trials(site, Curves(epochs=plan.epochs, seed=plan.study.seed))
    site.env.run(site.env.process(prepare(site)))
    prepared = site.env.now
    site.env.run(site.env.process(trials.run()))
    return Simulated(
        num_gpus,
        site.env.now,
        prepared,
        site.timesheet.close(),
        site.driver.busy_seconds,
        site.storage.num_bytes,
        site.storage.busy_seconds,
        trials.records,
        trials.heard,
    )
