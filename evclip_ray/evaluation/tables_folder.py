"""Folder of an evaluation's tables, if no other is given."""

from pathlib import Path
from typing import Any

from evclip_ray.artifacts import LEDGER, digest, read_ledger
from evclip_ray.evaluation.plan import EvaluationPlan

_PLAIN_NAMES = ("manifest", "list", "videos")
"""Usual names of a list, which say less than the name of its folder."""
_DIGITS = 6


def tables_folder(checkpoint: Path, plan: EvaluationPlan) -> Path:
    """Return the folder next to a checkpoint for the tables of an evaluation.

    Its name has the checkpoint, the split, the protocol unless it is the closed set, and the list unless it
    is that of the training. Scores on other videos must not replace those on the study's own, nor those on
    another list of the same file name: the second of two such lists adds a digest of its path.

    Args:
        checkpoint: Folder of the checkpoint.
        plan: What is evaluated.
    """
    protocol = "" if plan.protocol == "closed_set" else plan.protocol
    source = Path(next(iter(plan.plans.values())).manifest.source)
    listed = source.parent.name if source.stem in _PLAIN_NAMES else source.stem
    parts = [checkpoint.name, plan.split, protocol, "" if plan.is_training_list else listed]
    folder = checkpoint.with_name("-".join(filter(None, parts)))
    if plan.is_training_list or not (folder / LEDGER).is_file():
        return folder
    recorded = read_ledger(folder, "evaluation")["inputs"]["experiment"].get("data", {})
    given = _source(plan.experiment.data.model_dump(mode="json"))
    return folder if _source(recorded) == given else folder.with_name(f"{folder.name}-{_short(given)}")


def _source(data: dict[str, Any]) -> dict[str, Any]:
    # Earlier versions had fewer keys. A path is that of the working folder, as when it was given.
    paths = {key: str(Path(data[key]).absolute()) for key in ("manifest", "root") if data.get(key)}
    return {**paths, "world": data.get("world")}


def _short(given: dict[str, Any]) -> str:
    return digest(given)[:_DIGITS]
