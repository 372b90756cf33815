"""The report of a study, as a document."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from evclip_ray.artifacts import LEDGER
from evclip_ray.formatting import brief_path
from evclip_ray.reports.charts.study import TRIALS, study_charts, zero_files
from evclip_ray.reports.document import Block, Note, Report, Section, Table, shown, with_interval
from evclip_ray.reports.sections.conditions import (
    brief_line,
    conditions_table,
    random_warning,
    study_conditions,
    weights,
)
from evclip_ray.reports.sections.evaluation import Evaluation, evaluation_section
from evclip_ray.results import Study

_MOST_SETTINGS = 8
"""Searched settings that the leaderboard sets out; the fold and the CSV have all."""


def study_report(
    study: Study,
    *,
    evaluations: Sequence[Evaluation] = (),
    more: Sequence[Section] = (),
    notes: Sequence[str] = (),
) -> Report:
    """The document: `more` sections at its end; `notes` say what could not be had, and why."""
    conditions = study_conditions(study)
    warnings = random_warning(weights(study))
    if "leaks" in conditions:
        warnings.append(f"LEAKS: {conditions['leaks']}")
    first = Section("leaderboard", "Leaderboard", [leaderboard_table(study), *_remarks(study)])
    sections = [first, *chart_sections(study)]
    sections += [evaluation_section(found) for found in evaluations]
    sections += more
    if notes:
        sections.append(Section("missing", "What is not in this report", [Note(note) for note in notes]))
    return Report(
        title=f"Study {study.name}",
        subtitle=f"{_states(study)}; validation split; {conditions['method']} on {conditions['backbone']}",
        facts=_facts(study),
        conditions=conditions_table(conditions, (LEDGER, "best/config.json")),
        brief=brief_line(conditions),
        sections=sections,
        warnings=warnings,
    )


def leaderboard_table(study: Study, name: str = "leaderboard") -> Table:
    """The trials, best first, with intervals, seeds, states, and zero-shot CLIP beside them."""
    frame = study.trials.drop(columns=["number", "settings"], errors="ignore")
    says = "Best first. The 95 % interval is Wilson's, over the validation videos of the trial's best epoch; "
    says += "the best of many trials on few videos flatters itself."
    files = (TRIALS, "trials/*/point.json", "trials/*/result.json", *zero_files(study))
    return Table(name, "Trials", frame, says, files, _set_out(study, frame))


def _set_out(study: Study, frame: pd.DataFrame) -> pd.DataFrame | None:
    if frame.empty:
        return None
    view = pd.DataFrame({"#": frame["rank"], "trial": frame["trial"], "state": frame["state"]})
    view["top-1 (95 %)"] = with_interval(frame, "val_top1", "val_top1_low", "val_top1_high")
    if frame["point_seeds"].max() > 1:
        several = frame.where(frame["point_seeds"] > 1)
        view["seeds"] = frame["point_seeds"]
        view["mean (95 %)"] = with_interval(several, "point_top1", "point_top1_low", "point_top1_high")
    varied = [path for path in study.searched if frame[path].nunique(dropna=False) > 1]
    named = {"zero-shot": "zero_shot_top1", "loss": "val_loss", "epochs": "epochs", "seconds": "seconds"}
    named |= {brief_path(path): path for path in varied[:_MOST_SETTINGS]}
    return view.assign(**{heading: frame[column] for heading, column in named.items()})


def chart_sections(study: Study) -> list[Section]:
    """The charts of a study's trials, by what they are read for."""
    charts = study_charts(study)
    slices = [chart for chart in charts if chart.small]
    by_name = {chart.name: chart for chart in charts if not chart.small}
    found = []
    for name, title, wanted in (
        ("search", "The search", ("history", "importance", "parallel")),
        ("slices", "Each setting by itself", ()),
        ("curves", "Learning curves", ("curves_top1", "curves_loss")),
    ):
        blocks: list[Block] = [by_name[key] for key in wanted if key in by_name]
        if name == "slices":
            blocks = list(slices)
        if name == "search" and "importance" not in by_name and not study.importance.empty:
            blocks.append(Note(f"Hyperparameter importance: {study.importance['status'].iloc[0]}."))
        if blocks:
            found.append(Section(name, title, blocks))
    return found


def _remarks(study: Study) -> list[Block]:
    found: list[Block] = []
    if study.best is None:
        found.append(Note("No trial has finished an epoch yet, so there is nothing to draw.", loud=True))
    failed = study.trials[study.trials["state"] == "failed"] if len(study.trials) else study.trials
    if len(failed):
        frame = failed[["trial", "error"]].reset_index(drop=True)
        found.append(Table("failed", "Failed trials", frame, sources=("trials/*/result.json",), shown=10))
    return found


def _facts(study: Study) -> dict[str, str]:
    best = study.best
    if best is None:
        return {"best trial": "none yet"}
    zero = study.zero_shot["top1"] if not study.zero_shot.empty else pd.Series(dtype=float)
    facts = {
        "best validation top-1": f"{best['val_top1']:.3f}",
        "95 % interval": f"{best['val_top1_low']:.2f} to {best['val_top1_high']:.2f}",
        "zero-shot CLIP": ", ".join(shown(value) for value in sorted(set(zero))) or "not scored",
        "best trial": str(best["trial"]),
        "with": str(best["settings"]),
    }
    return facts | _seed_fact(best)


def _seed_fact(best: dict[str, Any]) -> dict[str, str]:
    seeds = int(best.get("point_seeds", 1))
    if seeds < 2:
        return {"seeds": "1: no spread between seeds is known"}
    low, high = best["point_top1_low"], best["point_top1_high"]
    return {"seeds": f"{seeds}: mean {best['point_top1']:.3f} (t interval {low:.2f} to {high:.2f})"}


def _states(study: Study) -> str:
    counts = study.trials["state"].value_counts() if len(study.trials) else pd.Series(dtype=int)
    said = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    return ("1 trial" if len(study.trials) == 1 else f"{len(study.trials):,} trials") + (
        f" ({said})" if said else ""
    )
