"""Scaling limit of a simulated study, and its reason, derived from what the GPUs wait for."""

from collections.abc import Sequence

from simulation.study import Simulated

_HALF = 0.5


def speed_up(runs: Sequence[Simulated], run: Simulated) -> float:
    """Return the speed relative to one GPU, with the first (smallest) run as the reference."""
    return runs[0].num_gpus * runs[0].seconds / run.seconds


def last_efficient(runs: Sequence[Simulated]) -> Simulated:
    """Return the largest run up to which the efficiency per GPU is at least one half."""
    efficient = runs[0]
    for run in runs:
        if speed_up(runs, run) < _HALF * run.num_gpus:
            break
        efficient = run
    return efficient


def where_it_stops(runs: Sequence[Simulated]) -> str:
    """Return one line about runs in order of GPUs: where scaling stops, and what more GPUs wait for."""
    efficient = last_efficient(runs)
    beyond = [run for run in runs if run.num_gpus > efficient.num_gpus]
    if not beyond:
        return f"scales to all {efficient.num_gpus} GPUs: {_efficiency(runs, efficient)}"
    shortest = min(run.seconds for run in runs)
    fastest = next(run for run in runs if run.seconds <= 1.01 * shortest)
    reasons = ", ".join(f"{doing.value} {share:.0%}" for doing, share in beyond[0].idle()[:2])
    return (
        f"scales to {efficient.num_gpus} GPUs ({_efficiency(runs, efficient)}); "
        f"at {beyond[0].num_gpus} ({_efficiency(runs, beyond[0])}) their time goes to: {reasons}; "
        f"driver busy {beyond[0].driver_share:.0%}, storage {beyond[0].storage_share:.0%}; "
        f"no faster than at {fastest.num_gpus}"
    )


def _efficiency(runs: Sequence[Simulated], run: Simulated) -> str:
    gained = speed_up(runs, run)
    return f"{gained:.1f} times one GPU, {gained / run.num_gpus:.0%} of each"
