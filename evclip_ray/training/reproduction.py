"""Whether a run repeats an earlier one: its settings, and everything else that its numbers depend on.

The record of a checkpoint has the settings, the digests of the videos and of the weights, the versions of the
libraries, and `compute`: threads, workers and processor. Sums of floats depend on their order, so that
another number of threads or another processor changes the last digits of a loss, and after some epochs the
class of a few videos.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import ArtifactError
from evclip_ray.claimed_folder import describe_differences
from evclip_ray.training.checkpoint_record import without_activation
from evclip_ray.training.experiment import LOCATION

COMPUTE = "compute"
"""Key of threads, workers and processor in the record of a checkpoint."""
_UNRELATED = ("ray", "optuna", "rich", "click", "matplotlib")
"""Libraries whose version changes no number of a run."""


def compute_of(workers: int) -> dict[str, Any]:
    """Return how this process computes.

    Args:
        workers: Number of training processes of the run.
    """
    return {"threads": torch.get_num_threads(), "workers": workers, "processor": _processor()}


def threads_of(record: Mapping[str, Any]) -> int:
    """Return the number of threads that a run had.

    Args:
        record: Record of its checkpoint. Version 0.1 recorded no threads; 1 is the default of its trials.
    """
    return int(record.get(COMPUTE, {}).get("threads", 1))


def compared_settings(experiment: Mapping[str, Any], *, by_content: bool) -> dict[str, Any]:
    """Return the settings in which two runs must be equal to be the same.

    Args:
        experiment: Settings of a run.
        by_content: Whether the videos are compared by content, so that their location may differ.
    """
    settings = without_activation(experiment)
    if by_content:
        settings["data"] = {name: each for name, each in settings["data"].items() if name not in LOCATION}
    return settings


def refuse_other_run(
    folder: Path, record: Mapping[str, Any], experiment: Mapping[str, Any], *, by_content: bool
) -> None:
    """Check that the run in a folder has the settings of an experiment.

    Args:
        folder: Folder of the run.
        record: Record of its checkpoint.
        experiment: Settings of the experiment.
        by_content: See `compared_settings`.

    Raises:
        ArtifactError: It has others. The message names them.
    """
    begun, given = (
        compared_settings(each, by_content=by_content) for each in (record["experiment"], experiment)
    )
    if begun != given:
        raise ArtifactError(
            f"{folder}: holds a run of another experiment (begun with -> given: "
            f"{describe_differences(begun, given)}); choose another --out"
        )


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing, apart from the settings, in which a run differs from an earlier one.

    Args:
        earlier: Record of the earlier run.
        now: Record of this run; what it does not have is not compared.

    Example:
        >>> differences({"compute": {"threads": 1}}, {"compute": {"threads": 2}})
        ['threads: 1 -> 2']
    """
    lines = []
    for name, title in (("train", "training videos"), ("val", "validation videos")):
        digests = [record.get("rows", {}).get(name) for record in (earlier, now)]
        if digests[0] != digests[1]:
            lines.append(f"{title}: {digests[0] or 'not recorded'} -> {digests[1] or 'none'}")
    before, after = _flat(earlier), _flat(now)
    for name, value in after.items():
        was = before.get(name, "not recorded")
        if was != value:
            lines.append(f"{name}: {was} -> {value}")
    return lines


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    versions = record.get("provenance", {}).get("versions", {})
    used = {f"version of {name}": each for name, each in versions.items() if name not in _UNRELATED}
    weights = {f"weights of {name}": each for name, each in record.get("weights", {}).items()}
    decoder = {"decoder": record["decoder"]} if "decoder" in record else {}
    return {**weights, **record.get("conditions", {}), **decoder, **record.get(COMPUTE, {}), **used}


def _processor() -> str:
    """Return the name of the processor, and the instructions that PyTorch uses."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # another system than Linux
        pass
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
