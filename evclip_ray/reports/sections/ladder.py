"""The report of a ladder, as a document: the rungs together, then each by itself."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from evclip_ray.artifacts import LEDGER
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.charts.ladder import ladder_charts
from evclip_ray.reports.charts.study import study_charts
from evclip_ray.reports.document import Block, Chart, Note, Report, Section, Table, with_interval
from evclip_ray.reports.sections.conditions import (
    DIFFERS,
    brief_line,
    conditions_table,
    random_warning,
    study_conditions,
    weights,
)
from evclip_ray.reports.sections.evaluation import Evaluation, anchor, evaluation_section
from evclip_ray.reports.sections.study import leaderboard_table
from evclip_ray.results import RUNGS, Ladder, Study


def ladder_report(
    ladder: Ladder,
    *,
    evaluations: Mapping[str, Sequence[Evaluation]] | None = None,
    more: Sequence[Section] = (),
    notes: Sequence[str] = (),
) -> Report:
    """The document. `evaluations`: of each rung's best trial; `more` and `notes`: as of a study."""
    conditions = _conditions(ladder)
    sections = [Section("rungs", "The ladder", _first_blocks(ladder)), *_chart_sections(ladder)]
    for name, study in ladder.rungs.items():
        sections.append(rung_section(name, study))
        for found in (evaluations or {}).get(name, ()):
            section = evaluation_section(found)
            sections.append(dataclasses.replace(section, title=f"{name}: {section.title.lower()}"))
    sections += more
    if notes:
        sections.append(Section("missing", "What is not in this report", [Note(note) for note in notes]))
    frame = ladder.table("ladder")
    ended = frame["state"].value_counts() if "state" in frame else pd.Series(dtype=int)
    return Report(
        title=f"Ladder {ladder.name}",
        subtitle=", ".join(f"{_rungs(count)} {state}" for state, count in ended.items())
        or "no rung has begun",
        facts=_facts(ladder),
        conditions=conditions_table(conditions, (LEDGER, f"{RUNGS}/*/best/config.json")),
        brief=brief_line(_conditions(ladder, briefly=True)),
        sections=sections,
        warnings=_warnings(ladder),
    )


def rung_section(name: str, study: Study) -> Section:
    """A rung by itself: its best trials, its history and its curves."""
    wanted = {"history", "curves_top1"}
    charts = [chart for chart in study_charts(study) if chart.name in wanted]
    table = leaderboard_table(study, f"leaderboard_{anchor(name)}")
    root = f"{RUNGS}/{name}/"
    blocks: list[Block] = [
        dataclasses.replace(table, shown=5, sources=[root + s for s in table.sources]),
        *(
            dataclasses.replace(chart.renamed(f"{anchor(name)}_"), sources=[root + s for s in chart.sources])
            for chart in charts
        ),
    ]
    return Section(f"rung_{anchor(name)}", f"Rung {name}", blocks, brief_line(study_conditions(study)))


def _first_blocks(ladder: Ladder) -> list[Block]:
    frame = ladder.table("ladder")
    if frame.empty:
        return [Note("No rung has begun yet, so there is nothing to draw.", loud=True)]
    blocks: list[Block] = []
    if ladder_data.scored_rungs(ladder).empty:
        blocks.append(
            Note("No rung has a trial with a finished epoch, so there is nothing to draw.", loud=True)
        )
    blocks.append(Table("ladder", "Rungs", frame, _RUNGS_SAY, ("ladder.csv",), _set_out(frame), len(frame)))
    failed = frame[frame["state"] == "failed"] if "state" in frame else frame.head(0)
    blocks += [Note(f"Rung {row['rung']} failed: {row['error']}", loud=True) for _, row in failed.iterrows()]
    for name, title, found in (
        ("fits", "Accuracy over cost, fitted", ladder_data.fits_table(ladder)),
        ("slopes", "How the best settings move", ladder_data.slopes_table(ladder)),
    ):
        if not found.empty:
            blocks.append(Table(name, title, found, sources=("fits.json",)))
    return blocks


_RUNGS_SAY = (
    "A rung stands for its best trial on validation videos; the interval is Wilson's, over these videos. "
    "What it gains over the rung before is resampled over videos, the same for both where they are known. "
    "Costs are counted on shapes, and measured where there is a number of seconds."
)


def _set_out(frame: pd.DataFrame) -> pd.DataFrame:
    view = pd.DataFrame({"rung": frame["rung"], "state": frame["state"], "trials": frame["trials"]})
    view["top-1 (95 %)"] = with_interval(frame, "val_top1", "val_top1_low", "val_top1_high")
    if "gain" in frame:
        view["over the rung before (95 %)"] = with_interval(frame, "gain", "gain_low", "gain_high")
    named = {
        "zero-shot": "zero_shot_top1", "trained parameters": "trainable_parameters",
        "all parameters": "total_parameters", "GMAC a video": "inference_gmac",
        "latency, s": "latency_seconds",
        "videos/s": "videos_per_second", "training step, s": "training_step_seconds",
        "checkpoint, bytes": "checkpoint_bytes", "device seconds": "device_seconds",
    }  # fmt: skip
    named = {title: column for title, column in named.items() if column in frame}
    return view.assign(**{title: frame[column] for title, column in named.items()})


def _chart_sections(ladder: Ladder) -> list[Section]:
    groups: dict[str, list[Chart]] = {}
    remarks: list[Note] = []
    for chart in ladder_charts(ladder):
        groups.setdefault(_GROUP.get(chart.name.partition("_")[0], "search"), []).append(chart)
    titles = {
        "accuracy": "Accuracy over cost", "pareto": "Pareto fronts", "costs": "Costs",
        "search": "The searches", "transfer": "Where each rung has a setting best",
    }  # fmt: skip
    important = ladder.table("importance")
    if "search" in groups and ladder_data.importance(ladder).empty and not important.empty:
        why = important.groupby("rung")["status"].first()
        said = "; ".join(f"{rung}: {status}" for rung, status in why.items())
        remarks.append(Note(f"Hyperparameter importance: {said}."))
    found = [
        Section(name, title, [*groups[name], *(remarks if name == "search" else [])])
        for name, title in titles.items()
        if name in groups
    ]
    costs = ladder.table("costs")
    if costs.empty:
        return found
    table = Table(
        "costs", "Every cost", costs, "Where nothing was measured there is no value.", ("costs.csv",)
    )
    return [
        dataclasses.replace(section, blocks=[*section.blocks, table]) if section.name == "costs" else section
        for section in found
    ]


_GROUP = {"ladder": "accuracy", "pareto": "pareto", "gmac": "costs", "transfer": "transfer"}


def _conditions(ladder: Ladder, *, briefly: bool = False) -> dict[str, str]:
    """The rungs' conditions: one value where they agree, each rung's (or that they differ) where not."""
    rungs = {name: study_conditions(study) for name, study in ladder.rungs.items()}
    found = {"ladder": f"{ladder.name}, key {ladder.ledger.get('key')}"}
    for key in dict.fromkeys(key for values in rungs.values() for key in values):
        values = {name: values.get(key, "–") for name, values in rungs.items()}
        same = len(set(values.values())) == 1
        each = "; ".join(f"{name}: {value}" for name, value in values.items())
        differ = DIFFERS if briefly else each
        found[key] = next(iter(values.values())) if same else differ
    return found


def _rungs(count: int) -> str:
    return "1 rung" if count == 1 else f"{count} rungs"


def _facts(ladder: Ladder) -> dict[str, str]:
    best = ladder.best
    if best is None:
        return {"best trial": "none yet"}
    return {
        "best validation top-1": f"{best['val_top1']:.3f}",
        "95 % interval": f"{best['val_top1_low']:.2f} to {best['val_top1_high']:.2f}",
        "best rung": str(best["rung"]),
        "best trial": str(best["trial"]),
        "with": str(best["settings"]),
    }


def _warnings(ladder: Ladder) -> list[str]:
    found: dict[str, list[str]] = {}
    for name, study in ladder.rungs.items():
        for warning in random_warning(weights(study)):
            found.setdefault(warning, []).append(name)
    return [f"{warning} (rungs {', '.join(names)})" for warning, names in found.items()]
