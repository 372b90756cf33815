"""Report of a ladder, as a document: all steps together, then each step alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from evclip_ray.artifacts import LEDGER
from evclip_ray.formatting import counted
from evclip_ray.records import choice_lines
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.charts.ladder import ladder_charts
from evclip_ray.reports.charts.study import study_charts
from evclip_ray.reports.document import Block, Chart, Note, Report, Section, Table, with_interval
from evclip_ray.reports.sections.calibration import calibration_sections
from evclip_ray.reports.sections.conditions import (
    DIFFERS,
    brief_line,
    conditions_table,
    random_warnings,
    study_conditions,
    weights,
)
from evclip_ray.reports.sections.evaluation import Evaluation, anchor, evaluation_section
from evclip_ray.reports.sections.ladder_headline import TOO_FEW, ladder_headline
from evclip_ray.reports.sections.next_steps import links, resume
from evclip_ray.reports.sections.speed import speed_of_steps
from evclip_ray.reports.sections.study import commands_of, leaderboard_table, strip_of
from evclip_ray.results import STEPS, Ladder, Study


def ladder_report(
    ladder: Ladder,
    *,
    evaluations: Mapping[str, Sequence[Evaluation]] | None = None,
    more: Sequence[Section] = (),
    notes: Sequence[str] = (),
    cache: Path | None = None,
) -> Report:
    """Build the document of a ladder.

    Args:
        ladder: Results.
        evaluations: Evaluation sets of the best trial, by step.
        more: Sections for the end of the report.
        notes: Missing parts and the reasons.
        cache: Folder of the data sets that are made on demand.
    """
    conditions = _conditions(ladder)
    best_step = "" if ladder.best is None else str(ladder.best["rung"])
    best, best_sets = ladder.steps.get(best_step), (evaluations or {}).get(best_step, ())
    sections = [Section("rungs", "The ladder", _first_blocks(ladder)), *_chart_sections(ladder)]
    for name, study in ladder.steps.items():
        sections.append(step_section(name, study))
        for evaluation in (evaluations or {}).get(name, ()):
            for section in (evaluation_section(evaluation), *calibration_sections(evaluation)):
                title, label = (f"{name}: {text.lower()}" for text in (section.title, section.label))
                sections.append(dataclasses.replace(section, title=title, label=label))
    sections += more
    if notes:
        sections.append(Section("missing", "Missing from this report", [Note(note) for note in notes]))
    steps = ladder.table("ladder")
    states = steps["state"].value_counts() if "state" in steps else pd.Series(dtype=int)
    return Report(
        title=f"Ladder {ladder.name}",
        subtitle=", ".join(f"{_count(number)} {state}" for state, number in states.items())
        or "no step has started",
        headline=ladder_headline(ladder),
        facts=_facts(ladder),
        conditions=conditions_table(conditions, (LEDGER, f"{STEPS}/*/best/config.json")),
        brief=brief_line(_conditions(ladder, briefly=True)),
        sections=sections,
        warnings=_warnings(ladder),
        strip=strip_of(best_sets),
        commands=[
            *resume(ladder.ledger, bool((states.index != "finished").any())),
            *([] if best is None else commands_of(best, _test_of(best), cache)),
        ],
        links=[] if best is None else links(best, f"{STEPS}/{best_step}/"),
    )


def _test_of(study: Study) -> list[Evaluation]:
    """Return the evaluation on the test split that `evaluate` wrote next to a step's best checkpoint."""
    folder = study.root / "best-test"
    return Evaluation.load_all(folder) if (folder / LEDGER).is_file() else []


def step_section(name: str, study: Study) -> Section:
    """Return the section of one step: its best trials, history and learning curves."""
    wanted = {"history", "curves_top1"}
    charts = [chart for chart in study_charts(study) if chart.name in wanted]
    table = leaderboard_table(study, f"leaderboard_{anchor(name)}")
    root = f"{STEPS}/{name}/"
    blocks: list[Block] = [
        dataclasses.replace(table, num_shown=5, sources=[root + s for s in table.sources]),
        *(
            dataclasses.replace(chart.renamed(f"{anchor(name)}_"), sources=[root + s for s in chart.sources])
            for chart in charts
        ),
    ]
    return Section(f"rung_{anchor(name)}", f"Step {name}", blocks, brief_line(study_conditions(study)))


def _first_blocks(ladder: Ladder) -> list[Block]:
    steps = ladder.table("ladder")
    if steps.empty:
        return [Note("No step has started yet, so there is nothing to draw.", loud=True)]
    blocks: list[Block] = []
    if ladder_data.scored_steps(ladder).empty:
        blocks.append(
            Note("No step has a trial with a finished epoch, so there is nothing to draw.", loud=True)
        )
    blocks.append(Table("ladder", "Steps", steps, _CAPTION, ("ladder.csv",), _view(steps), len(steps)))
    blocks += [Note(remark) for remark in _unequal_searches(steps)]
    failed = steps[steps["state"] == "failed"] if "state" in steps else steps.head(0)
    blocks += [Note(f"Step {row['rung']} failed: {row['error']}", loud=True) for _, row in failed.iterrows()]
    for name, title, table in (
        ("fits", "Accuracy over cost, fitted", ladder_data.fits_table(ladder)),
        ("slopes", "Trends of the best settings", ladder_data.slopes_table(ladder)),
    ):
        # What needs more steps is in one line at the top of the report.
        table = table[~table["status"].str.startswith(TOO_FEW)] if len(table) else table
        if not table.empty:
            blocks.append(Table(name, title, table.reset_index(drop=True), sources=("fits.json",)))
    return blocks


def _unequal_searches(steps: pd.DataFrame) -> list[str]:
    """Return why the gains between steps are not those of the steps alone."""
    remarks = []
    started = steps[steps["warm_start"].notna()] if "warm_start" in steps else steps.head(0)
    if len(started):
        remarks.append(
            f"An earlier version started {', '.join(map(str, started['rung']))} from the best points of the "
            "step before. More trials are then behind a later step, which raises its gain: four identical "
            "steps of 4 trials gained 0.9 points in simulation. Repeat the command with --share-points 1 to "
            "evaluate the best point of each step at every step."
        )
    scored = steps[pd.to_numeric(steps["val_top1"], errors="coerce").notna()]
    # Shared points differ in number where steps found some of them on their own. All steps have run them all.
    shared = scored["shared_points"].fillna(0) if "shared_points" in scored else 0
    trials = dict(zip(scored["rung"], scored["trials"] - shared, strict=True))
    if len(set(trials.values())) > 1:
        counts = ", ".join(f"{name} {number:.0f}" for name, number in trials.items())
        remarks.append(
            f"The steps have different numbers of trials ({counts}). The best of more trials is higher by "
            "chance alone."
        )
    return remarks


_CAPTION = (
    "A step is represented by its best trial on the validation videos. The best of many is optimistic, on "
    "every step alike. Intervals are over these videos, or over their groups. The gain over the previous "
    "step is resampled, jointly for both steps where per-video results exist. Operations are counted from "
    "shapes; times in seconds are measured."
)


_HEADINGS = {
    "zero-shot": "zero_shot_top1",
    "trained parameters": "trainable_parameters",
    "all parameters": "total_parameters",
    "GMAC per video": "inference_gmac",
    "latency, s": "latency_seconds",
    "videos/s": "videos_per_second",
    "training step, s": "training_step_seconds",
    "checkpoint, bytes": "checkpoint_bytes",
    "device seconds": "device_seconds",
}


def _view(steps: pd.DataFrame) -> pd.DataFrame:
    view = pd.DataFrame({"step": steps["rung"], "state": steps["state"], "trials": steps["trials"]})
    view["top-1 (95 %)"] = with_interval(steps, "val_top1", "val_top1_low", "val_top1_high")
    if "corrected_top1" in steps and steps["corrected_top1"].notna().any():
        corrected = ("corrected_top1", "corrected_top1_low", "corrected_top1_high")
        view["corrected for the choice (95 %)"] = with_interval(steps, *corrected)
    if "gain" in steps:
        view["gain over the previous step (95 %)"] = with_interval(steps, "gain", "gain_low", "gain_high")
    present = {title: column for title, column in _HEADINGS.items() if column in steps}
    return view.assign(**{title: steps[column] for title, column in present.items()})


def _chart_sections(ladder: Ladder) -> list[Section]:
    groups: dict[str, list[Chart]] = {}
    remarks: list[Note] = []
    for chart in ladder_charts(ladder):
        groups.setdefault(_GROUP.get(chart.name.partition("_")[0], "search"), []).append(chart)
    titles = {
        "accuracy": "Accuracy over cost",
        "pareto": "Pareto fronts",
        "costs": "Costs",
        "search": "The searches",
        "transfer": "Best value of each setting, by step",
    }
    important = ladder.table("importance")
    if "search" in groups and ladder_data.importance(ladder).empty and not important.empty:
        remarks.append(Note(f"Hyperparameter importance: {_why_no_importance(important)}."))
    sections = [
        Section(name, title, [*groups[name], *(remarks if name == "search" else [])])
        for name, title in titles.items()
        if name in groups
    ]
    costs = ladder.table("costs")
    if costs.empty:
        return sections
    table = Table("costs", "All costs", costs, "Quantities that were not measured are empty.", ("costs.csv",))
    more = [table, *speed_of_steps(ladder)]
    return [
        dataclasses.replace(section, blocks=[*section.blocks, *more]) if section.name == "costs" else section
        for section in sections
    ]


def _why_no_importance(important: pd.DataFrame) -> str:
    if "null" not in important:
        return "written by an earlier version, without its noise; repeat the command `scale` to compute it"
    statuses = important.groupby("rung", sort=False)["status"].first()
    return "; ".join(f"{step}: {status}" for step, status in statuses.items())


_GROUP = {"ladder": "accuracy", "pareto": "pareto", "gmac": "costs", "transfer": "transfer"}


def _conditions(ladder: Ladder, *, briefly: bool = False) -> dict[str, str]:
    """Return the conditions of all steps: one value where they agree, or else the value of each step.

    With `briefly`, differing values are replaced by `DIFFERS`.
    """
    by_step = {name: study_conditions(study) for name, study in ladder.steps.items()}
    conditions = {"ladder": f"{ladder.name}, key {ladder.ledger.get('key')}"}
    for key in dict.fromkeys(key for values in by_step.values() for key in values):
        values = {name: values.get(key, "–") for name, values in by_step.items()}
        if len(set(values.values())) == 1:
            conditions[key] = next(iter(values.values()))
        else:
            each = "; ".join(f"{name}: {value}" for name, value in values.items())
            conditions[key] = DIFFERS if briefly else each
    return conditions


def _count(number: int) -> str:
    return "1 step" if number == 1 else f"{counted(number, 'step')}"


def _facts(ladder: Ladder) -> dict[str, str]:
    best = ladder.best
    if best is None:
        return {"best trial": "none yet"}
    without_choice = {
        "best validation top-1": f"{best['val_top1']:.3f}",
        "95 % interval": f"{best['val_top1_low']:.2f} to {best['val_top1_high']:.2f}",
    }
    return {
        **(choice_lines(best) or without_choice),
        "best step": str(best["rung"]),
        "best trial": str(best["trial"]),
        "with": str(best["settings"]),
    }


def _warnings(ladder: Ladder) -> list[str]:
    steps: dict[str, list[str]] = {}
    for name, study in ladder.steps.items():
        for warning in random_warnings(weights(study)):
            steps.setdefault(warning, []).append(name)
    return [f"{warning} Steps: {', '.join(names)}." for warning, names in steps.items()]
