"""Section of the calibration of an evaluated checkpoint."""

from typing import Any

import pandas as pd

from evclip_ray.artifacts import LEDGER
from evclip_ray.formatting import sample_size, with_interval
from evclip_ray.metrics.calibration_measures import calibration_remarks
from evclip_ray.reports.charts.calibration import reliability_chart, risk_chart
from evclip_ray.reports.document import Block, Note, Section, Table
from evclip_ray.reports.sections.evaluation import Evaluation, evaluation_label, evaluation_title, source

_MEASURES = {"calibration_error": "calibration error", "log_loss": "log loss, nats"}


def calibration_sections(evaluation: Evaluation) -> list[Section]:
    """Return the section of the calibration; none for a checkpoint without one."""
    record = evaluation.ledger.get("calibration")
    if not record:
        return []
    blocks: list[Block] = [Note(_sentence(remark)) for remark in calibration_remarks(record)]
    blocks += [_before_and_after(evaluation, record), *_decisions(evaluation, record)]
    name = evaluation.name
    reliability, risk = (source(evaluation, file) for file in ("reliability.csv", "risk_coverage.csv"))
    blocks += [
        reliability_chart(f"reliability_{name}", evaluation.table("reliability"), reliability),
        risk_chart(f"risk_{name}", evaluation.table("risk_coverage"), record["rejection"], risk),
    ]
    title = f"Calibration: {evaluation_title(evaluation).lower()}"
    label = f"Calibration: {evaluation_label(evaluation).lower()}"
    return [Section(f"calibration_{name}", title, blocks, evaluation.brief, label)]


def _before_and_after(evaluation: Evaluation, record: dict[str, Any]) -> Table:
    rows = []
    for key, title in _MEASURES.items():
        row: dict[str, Any] = {"measure": title}
        for index, scored in enumerate(("before", "after")):
            bounds = record[f"{key}_interval"][index] or (None, None)
            row |= {scored: record[key][index], f"{scored}_low": bounds[0], f"{scored}_high": bounds[1]}
        rows.append(row)
    data = pd.DataFrame(rows)
    view = pd.DataFrame({"": data["measure"]})
    for scored in ("before", "after"):
        cells = (data[name] for name in (scored, f"{scored}_low", f"{scored}_high"))
        view[f"{scored} (95 %)"] = [with_interval(*row) for row in zip(*cells, strict=True)]
    caption = f"Probabilities are softmax(logits / T) with the temperature T = {record['temperature']:.3g}"
    if facts := record["validation"]:
        sample = sample_size(facts["num_videos"], facts["num_groups"])
        caption += (
            f", which was fitted on validation data ({sample}). These videos also selected the checkpoint"
        )
    caption += (
        ". The error of few videos is too high, because noise adds to it; the interval allows for that."
    )
    return Table(
        f"calibration_{evaluation.name}",
        "Before and after calibration",
        data,
        caption,
        sources=source(evaluation, LEDGER),
        view=view,
    )


def _decisions(evaluation: Evaluation, record: dict[str, Any]) -> list[Block]:
    """Return the tables of the threshold and of the conformal sets, as far as the checkpoint has them."""
    blocks: list[Block] = []
    if rejection := record["rejection"]:
        data = pd.DataFrame([{**rejection, "area": record["area_under_risk_coverage"]}])
        chosen = rejection["max_risk"]
        rule = "given" if chosen is None else f"chosen on validation for an error of at most {chosen:.3g}"
        view = pd.DataFrame(
            {
                "unknown below": data["unknown_below"],
                "accepted (95 %)": [_interval(rejection, "coverage")],
                "error among them (95 %)": [_interval(rejection, "risk")],
                "area under the curve": data["area"],
            }
        )
        caption = f"Videos whose best probability is below the threshold are unknown. It was {rule}."
        blocks.append(_table(evaluation, "rejection", "Rejection", data, caption, view))
    if conformal := record["conformal"]:
        data = pd.DataFrame([conformal])
        view = pd.DataFrame(
            {
                "level": data["level"],
                "coverage (95 %)": [_interval(conformal, "coverage")],
                "mean size (95 %)": [_interval(conformal, "mean_size")],
                "classes": data["classes"],
            }
        )
        caption = (
            "Sets of classes. Coverage is the share of videos whose set holds the true class. It is at least "
            "the level for new videos like those of the validation, and can be lower in another domain."
        )
        blocks.append(_table(evaluation, "conformal", "Conformal sets", data, caption, view))
    return blocks


def _table(
    evaluation: Evaluation, name: str, title: str, data: pd.DataFrame, caption: str, view: pd.DataFrame
) -> Table:
    sources = source(evaluation, LEDGER)
    return Table(f"{name}_{evaluation.name}", title, data, caption, sources=sources, view=view)


def _interval(record: dict[str, Any], name: str) -> str:
    return with_interval(record[name], *(record[f"{name}_interval"] or (None, None)))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
