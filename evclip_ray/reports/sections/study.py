"""Report of a study, as a document."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evclip_ray.artifacts import LEDGER
from evclip_ray.formatting import brief_path, counted
from evclip_ray.records import TrialState, choice_lines, scored_on
from evclip_ray.reports.charts.masks import mask_strip
from evclip_ray.reports.charts.study import TRIALS, study_charts, zero_files
from evclip_ray.reports.document import (
    Block,
    Command,
    Note,
    Report,
    Section,
    Strip,
    Table,
    shown,
    with_interval,
)
from evclip_ray.reports.sections.calibration import calibration_sections
from evclip_ray.reports.sections.conditions import (
    brief_line,
    conditions_table,
    random_warnings,
    study_conditions,
    weights,
)
from evclip_ray.reports.sections.evaluation import Evaluation, evaluation_section, tell_apart
from evclip_ray.reports.sections.gains import is_of_best
from evclip_ray.reports.sections.headline import study_headline, tests_of
from evclip_ray.reports.sections.next_steps import Videos, links, next_commands, videos_of
from evclip_ray.reports.sections.speed import speed_sections
from evclip_ray.results import Study

_MAX_SETTINGS = 8
"""Number of searched settings that the leaderboard displays. The fold and the CSV file contain all."""


def study_report(
    study: Study,
    *,
    evaluations: Sequence[Evaluation] = (),
    more: Sequence[Section] = (),
    notes: Sequence[str] = (),
    cache: Path | None = None,
) -> Report:
    """Build the document of a study.

    Args:
        study: Results.
        evaluations: Evaluation sets of the best trial.
        more: Sections for the end of the report.
        notes: Missing parts and the reasons.
        cache: Folder of the data sets that are made on demand.
    """
    evaluations = tell_apart(evaluations)
    conditions = study_conditions(study)
    warnings = random_warnings(weights(study))
    if "leaks" in conditions:
        warnings.append(f"LEAKS: {conditions['leaks']}")
    tables = [*_balanced_table(study), leaderboard_table(study)]
    first = Section("leaderboard", "Leaderboard", [*tables, *_remarks(study)])
    sections = [first, *chart_sections(study)]
    for evaluation in evaluations:
        sections += [evaluation_section(evaluation), *calibration_sections(evaluation)]
    sections += [*more, *speed_sections(study)]
    if notes:
        sections.append(Section("missing", "Missing from this report", [Note(note) for note in notes]))
    return Report(
        title=f"Study {study.name}",
        subtitle=f"{_states(study)}; {scored_on(study.ledger.get('selection', {}).values())}; "
        f"{conditions['method']} on {conditions['backbone']}",
        headline=study_headline(study, evaluations),
        facts=_facts(study),
        conditions=conditions_table(conditions, (LEDGER, "best/config.json")),
        brief=brief_line(conditions),
        sections=sections,
        warnings=warnings,
        # The masks of an earlier best checkpoint are not those of this one.
        strip=strip_of(sorted(evaluations, key=lambda each: not is_of_best(each, study))),
        commands=commands_of(study, evaluations, cache),
        links=links(study),
    )


def commands_of(study: Study, evaluations: Sequence[Evaluation], cache: Path | None) -> list[Command]:
    """Return the commands to run next.

    Args:
        study: Results.
        evaluations: Evaluation sets of its best trial.
        cache: Folder of the data sets that are made on demand; None if it is not known.
    """
    videos = videos_of(study.best_record, cache) if cache else Videos()
    return next_commands(study, videos, is_tested=bool(tests_of(study, evaluations)), cache=cache)


def strip_of(evaluations: Sequence[Evaluation]) -> Strip | None:
    """Return the pictures of the first evaluation that has masks."""
    strips = (mask_strip(each.root, section=f"evaluation_{each.name}") for each in evaluations)
    return next((strip for strip in strips if strip), None)


def leaderboard_table(study: Study, name: str = "leaderboard") -> Table:
    """Return the trials, best first, with intervals, seeds, states and zero-shot CLIP."""
    trials = study.trials.drop(columns=["number", "settings"], errors="ignore")
    caption = (
        "Best trial first. The 95 % interval is over the validation videos of the trial's score, and over "
        "groups of videos where the list has groups. It does not include the choice of the trial and epoch, "
        "so the best of many is optimistic. The score corrected for the choice is at the top of the report."
    )
    files = (TRIALS, "trials/*/point.json", "trials/*/result.json", *zero_files(study))
    return Table(name, "Trials", trials, caption, files, _view(study, trials))


def _balanced_table(study: Study) -> list[Table]:
    """Return the best trial of each value of a balanced choice, if the space has one."""
    if study.by_value.empty:
        return []
    data, path = study.by_value, str(study.balanced)
    view = pd.DataFrame({brief_path(path): data[path]})
    view["top-1 (95 %)"] = with_interval(data, "val_top1", "val_top1_low", "val_top1_high")
    view = view.assign(
        **{"best trial": data["best_trial"], "trials": data["trials"], "failed": data["failed"]}
    )
    caption = (
        "Each score is the best of the trials of its value, so all are optimistic. Their order is fair where "
        "the numbers of trials are equal."
    )
    return [Table("by_value", f"Best trial of each {path}", data, caption, (TRIALS,), view)]


def _view(study: Study, trials: pd.DataFrame) -> pd.DataFrame | None:
    if trials.empty:
        return None
    view = pd.DataFrame({"#": trials["rank"], "trial": trials["trial"], "state": trials["state"]})
    view["top-1 (95 %)"] = with_interval(trials, "val_top1", "val_top1_low", "val_top1_high")
    if trials["point_seeds"].max() > 1:
        several = trials.where(trials["point_seeds"] > 1)
        view["seeds"] = trials["point_seeds"]
        view["mean (95 %)"] = with_interval(several, "point_top1", "point_top1_low", "point_top1_high")
    varied = [path for path in study.searched if trials[path].nunique(dropna=False) > 1]
    named = {"zero-shot": "zero_shot_top1", "loss": "val_loss", "epochs": "epochs", "seconds": "seconds"}
    named |= {brief_path(path): path for path in varied[:_MAX_SETTINGS]}
    return view.assign(**{heading: trials[column] for heading, column in named.items()})


def chart_sections(study: Study) -> list[Section]:
    """Return the charts of a study's trials, grouped by purpose."""
    charts = study_charts(study)
    slices = [chart for chart in charts if chart.name.startswith("slice_")]
    by_name = {chart.name: chart for chart in charts}
    sections = []
    for name, title, wanted in (
        ("search", "The search", ("history", "importance", "parallel")),
        ("slices", "Each setting by itself", ()),
        ("curves", "Learning curves", ("curves_top1", "curves_loss")),
    ):
        blocks: list[Block] = [by_name[key] for key in wanted if key in by_name]
        if name == "slices":
            blocks = list(slices)
        if name == "search" and "importance" not in by_name and not study.importance.empty:
            # The first row has the largest importance, so its status holds for all settings.
            blocks.append(Note(f"Hyperparameter importance: {study.importance['status'].iloc[0]}."))
        if blocks:
            sections.append(Section(name, title, blocks))
    return sections


def _remarks(study: Study) -> list[Block]:
    blocks: list[Block] = []
    if study.best is None:
        blocks.append(Note("No trial has finished an epoch yet, so there is nothing to draw.", loud=True))
    failed = study.trials[study.trials["state"] == TrialState.FAILED] if len(study.trials) else study.trials
    if len(failed):
        errors = failed[["trial", "error"]].reset_index(drop=True)
        sources = ("trials/*/result.json",)
        blocks.append(Table("failed", "Failed trials", errors, sources=sources, num_shown=10))
    return blocks


def _facts(study: Study) -> dict[str, str]:
    best = study.best
    if best is None:
        return {"best trial": "none yet"}
    zero = study.zero_shot["top1"] if not study.zero_shot.empty else pd.Series(dtype=float)
    facts = {
        **(choice_lines(best) or {"best validation top-1": f"{best['val_top1']:.3f}"}),
        "zero-shot CLIP": ", ".join(shown(value) for value in sorted(set(zero))) or "not scored",
        "best trial": str(best["trial"]),
        "with": str(best["settings"]),
    }
    return facts | _seed_fact(best)


def _seed_fact(best: dict[str, Any]) -> dict[str, str]:
    seeds = int(best.get("point_seeds", 1))
    if seeds < 2:
        return {"seeds": "1, so the spread between seeds is unknown"}
    low, high = best["point_top1_low"], best["point_top1_high"]
    return {"seeds": f"{seeds}: mean {best['point_top1']:.3f} (t interval {low:.2f} to {high:.2f})"}


def _states(study: Study) -> str:
    counts = study.trials["state"].value_counts() if len(study.trials) else pd.Series(dtype=int)
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    total = counted(len(study.trials), "trial")
    return f"{total} ({states})" if states else total
