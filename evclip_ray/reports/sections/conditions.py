"""Under which conditions a study's numbers were measured: they stand beside every table and chart."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evclip_ray.reports.document import Table
from evclip_ray.results import Study

_UNKNOWN = "not recorded"
DIFFERS = "differs by rung"


def study_conditions(study: Study) -> dict[str, str]:
    """Everything that a number depends on, by heading; a searched setting says so."""
    setting = _Settings(study)
    record = study.best_record
    provenance = record.get("provenance") or study.ledger.get("provenance", {})
    classes = record.get("classes") or []
    found = {
        "study": f"{study.name}, key {study.ledger.get('key')}",
        "videos": setting("data.manifest") if setting("data.synthetic") == "none" else "synthetic",
        "split": _split(study),
        "protocol": _protocol(setting),
        "seeds": _seeds(study, setting),
        "views": f"1x1, the middle one, {setting('view.num_frames')} frames by {setting('view.sampling')}",
        "classes": f"{len(classes)}: {', '.join(classes)}" if classes else _UNKNOWN,
        "template": setting("method.template"),
        "method": setting("method.name"),
        "backbone": setting("backbone.name"),
        "weights": _pairs(weights(study)),
        "decoder": str(record.get("decoder", _UNKNOWN)),
        "git revision": str(provenance.get("git") or _UNKNOWN),
        "versions": _pairs(provenance.get("versions", {})),
        "measured": str(study.ledger.get("written", _UNKNOWN)),
    }
    if _leaking(study):
        found["leaks"] = f"{_leaking(study)} rows are in two splits: these numbers are too good"
    return found


def weights(study: Study) -> dict[str, str]:
    """Where the frozen weights came from: of the best trial, else of the zero-shot baseline."""
    if study.best_record.get("weights"):
        return dict(study.best_record["weights"])
    return {} if study.zero_shot.empty else dict(study.zero_shot["weights"].iloc[0])


def conditions_table(found: Mapping[str, str], sources: tuple[str, ...]) -> Table:
    """The conditions as a table."""
    frame = pd.DataFrame({"condition": list(found), "value": list(found.values())})
    return Table("conditions", "Conditions", frame, sources=sources, shown=len(frame))


def brief_line(found: Mapping[str, str]) -> str:
    """The conditions in a line, for the foot of a table."""
    chosen = ("split", "protocol", "seeds", "views", "template", "backbone", "weights", "git revision")
    named = {"git revision": "git", "template": "template", "weights": "weights", "backbone": "backbone"}
    named |= {name: name for name in chosen if found.get(name) == DIFFERS}
    return " · ".join(f"{named.get(name, '')} {found[name]}".strip() for name in chosen if name in found)


def is_random(found: Mapping[str, str]) -> list[str]:
    """The parts whose weights, by origin, are random."""
    return [part for part, origin in found.items() if origin == "random"]


def random_warning(found: Mapping[str, str]) -> list[str]:
    """The line that must not be overlooked, where some weights are random."""
    parts = is_random(found)
    return [f"RANDOM WEIGHTS in {' and '.join(parts)}: these numbers say nothing of a trained CLIP"] * bool(
        parts
    )


class _Settings:
    """A setting by its dotted path: of the best trial's whole experiment, else of what was fixed."""

    def __init__(self, study: Study) -> None:
        self._tree = study.best_record.get("experiment") or study.ledger.get("inputs", {}).get("fixed", {})
        self._searched = study.searched

    def __call__(self, path: str) -> str:
        """Its value as text; "searched" in front of one that differs from trial to trial."""
        value: Any = self._tree
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        text = "none" if value is None else str(value)
        return f"{text} (searched; of the best trial)" if path in self._searched else text


def _split(study: Study) -> str:
    counts = study.epochs.get("val_videos", pd.Series(dtype=float)).dropna().unique()
    said = "/".join(str(int(count)) for count in sorted(counts)) or "?"
    return f"validation split, {said} videos"


def _protocol(setting: "_Settings") -> str:
    shots, classes = setting("data.shots"), setting("data.classes")
    name = "closed set, all training videos" if shots == "none" else f"few-shot, {shots} videos a class"
    return name if classes == "none" else f"{name}, {classes} classes"


def _seeds(study: Study, setting: "_Settings") -> str:
    runs = study.trials.get("point_seeds", pd.Series(dtype=int))
    most = int(runs.max()) if len(runs) else 0
    said = "1 seed a point" if most <= 1 else f"up to {most} seeds a point"
    searcher = study.ledger.get("inputs", {}).get("seed", _UNKNOWN)
    return f"{said} (run {setting('seed')}, split {setting('data.split_seed')}, searcher {searcher})"


def _leaking(study: Study) -> int:
    rows = study.trials.get("leaking_rows", pd.Series(dtype=int))
    return int(rows.max()) if len(rows) else 0


def _pairs(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items()) or _UNKNOWN
