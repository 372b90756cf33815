"""Costs of a step: counted and measured for the experiment of its best trial, and as rows of tables."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from evclip_ray.artifacts import digest, read_json, write_json
from evclip_ray.profiling.counted import count_cost
from evclip_ray.profiling.measured import measure_cost
from evclip_ray.scaling.ladder_folder import LadderFolder
from evclip_ray.scaling.ladder_steps import LadderStep
from evclip_ray.training.checkpoint import CONFIG, read_record
from evclip_ray.training.experiment import ExperimentConfig

log = logging.getLogger(__name__)

COUNTED = (
    "inference_gmac",
    "training_gmac",
    "class_text_gmac",
    "trainable_parameters",
    "total_parameters",
    "checkpoint_bytes",
)
MEASURED_STEPS = {
    "latency_seconds": ("inference", "median_seconds"),
    "latency_p95_seconds": ("inference", "p95_seconds"),
    "videos_per_second": ("inference", "videos_per_second"),
    "inference_peak_bytes": ("inference", "peak_bytes"),
    "inference_joules_per_video": ("inference", "joules_per_video"),
    "training_step_seconds": ("training", "median_seconds"),
    "training_step_p95_seconds": ("training", "p95_seconds"),
    "training_videos_per_second": ("training", "videos_per_second"),
    "training_peak_bytes": ("training", "peak_bytes"),
    "training_joules_per_video": ("training", "joules_per_video"),
}
"""Phase and field of `MeasuredCost` for each column of ladder.csv, at the smallest batch."""
COST_COLUMNS = ("rung", "quantity", "part", "batch", "value", "unit", "source")
_UNITS = {
    "gmac": "GMAC",
    "parameters": "parameters",
    "bytes": "bytes",
    "seconds": "s",
    "second": "videos/s",
    "video": "J",
}


def cost_of(folder: LadderFolder, step: LadderStep, *, measure: bool) -> dict[str, Any] | None:
    """Return the costs of a step's best trial, or None if no trial has a checkpoint.

    They are read from `costs/NAME.json` if the file belongs to the same experiment, otherwise counted, and
    written there.

    Args:
        folder: The ladder's folder.
        step: The step.
        measure: Also measure time and memory on this machine, unless the file has measurements.
    """
    best = folder.step(step.name) / "best"
    if not (best / CONFIG).is_file():
        return None
    record = read_record(best)
    experiment, classes = ExperimentConfig.load(record["experiment"]), record["classes"]
    # Costs depend on shapes only. Data and seed are left out, so that the file stays valid if another trial
    # with the same shapes becomes the best.
    shape = experiment.model_dump(mode="json", include={"view", "backbone", "method", "optim", "precision"})
    key = digest({"shape": shape, "classes": classes})
    path = folder.cost(step.name)
    costs = read_json(path) if path.is_file() else {}
    if costs.get("key") != key:
        costs = {"key": key, "counted": count_cost(experiment, classes).record(), "measured": []}
    if measure and not costs["measured"]:
        try:
            costs["measured"] = [dataclasses.asdict(row) for row in measure_cost(experiment, classes)]
        except ValueError as error:
            # The experiment is too large for this machine; the counted costs are valid nevertheless.
            log.warning("step %s: %s", step.name, error)
    write_json(path, costs)
    return costs


def cost_columns(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of ladder.csv for the costs of a step."""
    counted = cost["counted"]
    columns = {name: counted[name] for name in COUNTED if not isinstance(counted[name], dict)}
    columns |= {name: counted[f"{name}_total"] for name in ("inference_gmac", "training_gmac")}
    for column, (phase, number) in MEASURED_STEPS.items():
        step = next((step for step in cost["measured"] if step["phase"] == phase), None)
        if step is not None:
            columns |= {column: step[number], "measured_batch": step["batch"], "measured_on": step["device"]}
    return columns


def cost_rows(step_name: str, cost: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of costs.csv for a step: one per quantity and part."""
    rows = []
    for name in COUNTED:
        value, batch = cost["counted"][name], ""
        if name == "training_gmac":
            batch = cost["counted"]["training_batch"]
        parts = value if isinstance(value, dict) else {"": value}
        rows += [_tidy(step_name, name, part, batch, number, "counted") for part, number in parts.items()]
    for step in cost["measured"]:
        for name in ("median_seconds", "p95_seconds", "videos_per_second", "peak_bytes", "joules_per_video"):
            # A missing energy has its reason in the column `source`.
            source = (step["energy_note"] or step["device"]) if "joules" in name else step["device"]
            rows.append(_tidy(step_name, name, step["phase"], step["batch"], step[name], source))
    return rows


def _tidy(step_name: str, quantity: str, part: str, batch: Any, value: Any, source: str) -> dict[str, Any]:
    return {
        "rung": step_name,
        "quantity": quantity,
        "part": part,
        "batch": batch,
        "value": value,
        "unit": _UNITS[quantity.rpartition("_")[2]],
        "source": source,
    }
