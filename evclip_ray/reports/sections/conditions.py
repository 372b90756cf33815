"""Conditions of a study's numbers. They are printed with every table and chart."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evclip_ray.data.transforms import view_summary
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import counted
from evclip_ray.records import random_weights_warning, scored_on, selection_ratio
from evclip_ray.reports.document import Table
from evclip_ray.results import Study

_UNKNOWN = "not recorded"
DIFFERS = "different for each step"


def study_conditions(study: Study) -> dict[str, str]:
    """Return everything that a number depends on, by heading. Searched settings are marked."""
    setting = _Settings(study)
    record = study.best_record
    provenance = record.get("provenance") or study.ledger.get("provenance", {})
    classes = record.get("classes") or []
    conditions = {
        "study": f"{study.name}, key {study.ledger.get('key')}",
        "videos": _videos(setting),
        "split": _split(study),
        "protocol": _protocol(setting),
        "selection": _selection(study),
        "seeds": _seeds(study, setting),
        "views": f"1x1, the middle view, {setting('view.num_frames')} frames by {setting('view.sampling')}",
        **_frames(record),
        "classes": f"{len(classes)}: {', '.join(classes)}" if classes else _UNKNOWN,
        "template": setting("method.template"),
        "method": setting("method.name"),
        "backbone": setting("backbone.name"),
        "weights": _pairs(weights(study)),
        "computed in": _computed_in(study),
        "decoder": str(record.get("decoder", _UNKNOWN)),
        "git revision": str(provenance.get("git") or _UNKNOWN),
        "versions": _pairs(provenance.get("versions", {})),
        "measured": str(study.ledger.get("written", _UNKNOWN)),
    }
    if _leaking(study):
        conditions["leaks"] = (
            f"{counted(_leaking(study), 'row', 'is', 'are')} in two splits, so these numbers are too high"
        )
    return conditions


def _frames(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the stored size of the best trial's frames and the share of the picture that is read."""
    view = record.get("experiment", {}).get("view")
    return {"frames": view_summary(ViewConfig.load(view))} if view else {}


def _computed_in(study: Study) -> str:
    """Return precision, device and activation of the best trial, or else of the zero-shot baseline."""
    conditions = study.best_record.get("conditions")
    if not conditions and "conditions" in study.zero_shot:
        conditions = next(iter(study.zero_shot["conditions"].dropna()), None)
    if not conditions:
        return _UNKNOWN
    computed = f"{conditions['precision']} on {conditions['device']}"
    activation = conditions.get("activation")
    return computed if activation is None else f"{computed}, activation {activation}"


def weights(study: Study) -> dict[str, str]:
    """Return the origin of the frozen weights of the best trial, or else of the zero-shot baseline."""
    if study.best_record.get("weights"):
        return dict(study.best_record["weights"])
    return {} if study.zero_shot.empty else dict(study.zero_shot["weights"].iloc[0])


def conditions_table(conditions: Mapping[str, str], sources: tuple[str, ...]) -> Table:
    """Return the conditions as a table."""
    data = pd.DataFrame({"condition": list(conditions), "value": list(conditions.values())})
    return Table("conditions", "Conditions", data, sources=sources, num_shown=len(data))


def brief_line(conditions: Mapping[str, str]) -> str:
    """Return the conditions in one line, for the foot of a table."""
    labelled = ("template", "backbone", "weights", "computed in")
    chosen = ("split", "protocol", "seeds", "views", *labelled, "git revision")
    named = {"git revision": "git"} | {name: name for name in labelled}
    named |= {name: name for name in chosen if conditions.get(name) == DIFFERS}
    return " · ".join(
        f"{named.get(name, '')} {conditions[name]}".strip() for name in chosen if name in conditions
    )


def random_warnings(weights: Mapping[str, str]) -> list[str]:
    """Return the warning about random weights as a list, which is empty if all weights are trained."""
    warning = random_weights_warning(weights)
    return [warning] if warning else []


class _Settings:
    """Settings of the best trial by dotted path, or else the fixed settings of the study."""

    def __init__(self, study: Study) -> None:
        self._tree = study.best_record.get("experiment") or study.ledger.get("inputs", {}).get("fixed", {})
        self._searched = study.searched

    def __call__(self, path: str) -> str:
        """Return the value as text. A setting that differs between trials is marked as searched."""
        value: Any = self._tree
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        text = "none" if value is None else str(value)
        return f"{text} (best trial; searched)" if path in self._searched else text


def _videos(setting: "_Settings") -> str:
    """Return the source of the videos: a list, the small world, or the synthetic videos of version 0.1."""
    if setting("data.world") != "none":
        return f"small world, {setting('data.world.domain')}, dial {setting('data.world.dial')}"
    return setting("data.manifest") if setting("data.synthetic") == "none" else "synthetic"


def _split(study: Study) -> str:
    counts = study.epochs.get("val_videos", pd.Series(dtype=float)).dropna().unique()
    num_videos = "/".join(str(int(count)) for count in sorted(counts)) or "?"
    noun = "video" if num_videos == "1" else "videos"
    return f"{scored_on(study.ledger.get('selection', {}).values())}, {num_videos} {noun}"


def _protocol(setting: "_Settings") -> str:
    shots, classes = setting("data.shots"), setting("data.classes")
    noun = "video" if shots == "1" else "videos"
    name = "closed set, all training videos" if shots == "none" else f"few-shot, {shots} {noun} per class"
    return name if classes == "none" else f"{name}, {classes} classes"


def _selection(study: Study) -> str:
    """Return the selection of the checkpoints, with the ratio of validation to training videos."""
    recorded: Mapping[str, Mapping[str, Any]] = study.ledger.get("selection", {})
    if not recorded:
        # Earlier versions had no other selection, and recorded no number of training videos.
        return "validation"
    return "; ".join(dict.fromkeys(map(_selection_text, recorded.values())))


def _selection_text(record: Mapping[str, Any]) -> str:
    return f"{record['selection']}, {selection_ratio(record)}"


def _seeds(study: Study, setting: "_Settings") -> str:
    runs = study.trials.get("point_seeds", pd.Series(dtype=int))
    max_seeds = int(runs.max()) if len(runs) else 0
    per_point = "1 seed per point" if max_seeds <= 1 else f"up to {counted(max_seeds, 'seed')} per point"
    searcher = study.ledger.get("inputs", {}).get("seed", _UNKNOWN)
    return f"{per_point} (run {setting('seed')}, split {setting('data.split_seed')}, searcher {searcher})"


def _leaking(study: Study) -> int:
    rows = study.trials.get("leaking_rows", pd.Series(dtype=int))
    return int(rows.max()) if len(rows) else 0


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or _UNKNOWN
