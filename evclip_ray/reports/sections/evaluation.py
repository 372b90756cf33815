"""Sections of saved evaluations: confusion matrix, gains per class, masks."""

import dataclasses
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from evclip_ray.artifacts import LEDGER, ArtifactError, read_ledger
from evclip_ray.formatting import sample_size
from evclip_ray.metrics.mask_quality import VideoMaskQuality, mask_quality_lines
from evclip_ray.reports.charts import study_data
from evclip_ray.reports.charts.masks import mask_pictures
from evclip_ray.reports.charts.study import named, tips
from evclip_ray.reports.document import Block, Chart, Note, Section, Table, with_interval
from evclip_ray.reports.sections.sources import Sources

_FIFTHS = [0, 0.2, 0.4, 0.6, 0.8, 1]
_LABELLED = 20
"""Number of classes up to which the cells of a confusion matrix show their counts."""

_ALL_NAMES = 8
"""Number of classes up to which every class has a label, on a phone too."""

_SPLITS = {"val": "validation"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation set, as `evaluate` wrote it. `of` is the step of the ladder, or empty."""

    root: Path
    ledger: dict[str, Any]
    of: str = ""

    @classmethod
    def load_all(cls, folder: Path, of: str = "") -> "list[Evaluation]":
        """Load all evaluation sets in a folder.

        Args:
            folder: Folder of the evaluation.
            of: Step of the ladder that it belongs to, or empty.

        Raises:
            ArtifactError: The folder contains none.
        """
        roots = [path for path in (folder, *sorted(folder.glob("*"))) if (path / LEDGER).is_file()]
        if not roots:
            raise ArtifactError(f"{folder}: must be the folder of an evaluation, but has no {LEDGER}")
        return [cls(root, read_ledger(root, "evaluation"), of) for root in roots]

    @property
    def name(self) -> str:
        """Step, split and evaluation set, for use in other names."""
        inputs = self.ledger["inputs"]
        eval_set = inputs.get("side", inputs["split"])
        name = str(inputs["split"] if eval_set == inputs["split"] else f"{inputs['split']}_{eval_set}")
        return anchor(f"{self.of} {name}" if self.of else name)

    def table(self, name: str) -> pd.DataFrame:
        """Read a table of the evaluation. Class names such as "NA" stay text."""
        return pd.read_csv(self.root / f"{name}.csv", keep_default_na=False, na_values=[""])

    @property
    def brief(self) -> str:
        """Conditions in one line."""
        inputs, views = self.ledger["inputs"], self.ledger["inputs"]["views"]
        split = _SPLITS.get(inputs["split"], inputs["split"])
        weights = ", ".join(f"{part} {origin}" for part, origin in self.ledger["weights"].items())
        conditions = self.ledger.get("conditions", {})
        # Evaluations of earlier versions have no conditions.
        computed = " on ".join(conditions[name] for name in ("precision", "device") if name in conditions)
        return " · ".join(
            [
                f"{split} split, {self.ledger['counts']['videos']} videos",
                inputs["protocol"],
                "1 checkpoint",
                f"{views['temporal']}x{views['spatial']} views",
                f"template {inputs['experiment']['method'].get('template')}",
                f"weights {weights}",
                *([f"computed in {computed}"] if computed else []),
                f"git {self.ledger['provenance']['git']}",
            ]
        )


def evaluation_section(evaluation: Evaluation) -> Section:
    """Return the section of an evaluation, with its masks."""
    split = evaluation.ledger["inputs"]["split"]
    blocks: list[Block] = [numbers_table(evaluation)]
    if evaluation.ledger["counts"].get("leaking_rows"):
        rows = evaluation.ledger["counts"]["leaking_rows"]
        blocks.insert(0, Note(f"LEAKS affect {rows} rows, so these numbers are too high", loud=True))
    if evaluation.ledger.get("adapted"):
        blocks += [gains_chart(evaluation), confusion_chart(evaluation)]
    blocks += mask_quality_blocks(evaluation)
    blocks += mask_pictures(evaluation.root, evaluation.name, split=_SPLITS.get(split, split))
    return Section(f"evaluation_{evaluation.name}", evaluation_title(evaluation), blocks, evaluation.brief)


def evaluation_title(evaluation: Evaluation) -> str:
    """Return the title of the section of an evaluation."""
    split = evaluation.ledger["inputs"]["split"]
    title = f"The best trial on the {_SPLITS.get(split, split)} split"
    if evaluation.ledger["inputs"].get("side", split) != split:
        title += f": {evaluation.ledger['inputs']['side']}"
    return title


def numbers_table(evaluation: Evaluation) -> Table:
    """Return the metrics of the zero-shot and the adapted CLIP."""
    rows = []
    for key, title in (("zero_shot", "zero-shot CLIP"), ("adapted", "adapted")):
        if numbers := evaluation.ledger.get(key):
            low, high = numbers["top1_interval"]
            metrics = {name: value for name, value in numbers.items() if name != "top1_interval"}
            rows.append({"scored": title, **metrics, "top1_low": low, "top1_high": high})
    data = pd.DataFrame(rows)
    view = pd.DataFrame(
        {
            "": data["scored"],
            "top-1 (95 %)": with_interval(data, "top1", "top1_low", "top1_high"),
            "top-5": data["top5"],
            "mean class accuracy": data["mean_class_accuracy"],
            "log loss, nats": data["log_loss"],
            "calibration error": data["calibration_error"],
            "interval over": [sample_size(row["videos"], row.get("groups")) for row in rows],
        }
    )
    return Table(
        f"numbers_{evaluation.name}", "Before and after", data, sources=source(evaluation, LEDGER), view=view
    )


def mask_quality_blocks(evaluation: Evaluation) -> list[Block]:
    """Return the table of mask quality and remarks on missing masks; empty without true masks."""
    record = evaluation.ledger.get("mask_quality")
    if not record:
        return []
    blocks: list[Block] = []
    if record["scored"]:
        numbers = {name: record[name] for name in VideoMaskQuality._fields}
        bounds = {}
        for name in ("average_precision", "pointing_game"):
            bounds[f"{name}_low"], bounds[f"{name}_high"] = record[f"{name}_interval"]
        counts = {name: record[name] for name in ("videos", "named", "scored", "groups")}
        data = pd.DataFrame([{**numbers, **bounds, **counts}])
        precision, pointing = (
            with_interval(data, name, f"{name}_low", f"{name}_high")
            for name in ("average_precision", "pointing_game")
        )
        view = pd.DataFrame(
            {
                "average precision (95 %)": precision,
                "share of the figure": data["base_share"],
                "pointing game (95 %)": pointing,
                "interval over": [sample_size(record["scored"], record["groups"])],
            }
        )
        caption = (
            "The mask as a detector of the acting figure, against its true mask. Average precision of a "
            "random mask is the share of the figure. Pointing game: share of frames in which the largest "
            "value of the mask is on the figure."
        )
        blocks.append(
            Table(
                f"mask_quality_{evaluation.name}",
                "Mask quality",
                data,
                caption,
                sources=source(evaluation, LEDGER),
                view=view,
            )
        )
    # The first line repeats the numbers of the table.
    lines = mask_quality_lines(record)[len(blocks) :]
    return [*blocks, *(Note(f"Mask quality: {line}") for line in lines)]


def gains_chart(evaluation: Evaluation) -> Chart:
    """Return the chart of the accuracy of every class before and after."""
    data, name = study_data.gains(evaluation.table("per_class")), f"gains_{evaluation.name}"
    base = alt.Chart(named(name)).encode(y=alt.Y("class:N", title=None, sort=list(data["class"])))
    accuracies = alt.X(
        "zero_shot:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=_FIFTHS)
    )
    tooltip = tips("class:N", "videos:Q", "zero_shot:Q", "adapted:Q", "gain:Q", gain="+.3f", videos="d")
    link = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=accuracies, x2="adapted:Q")
    interval = base.mark_rule(style="after", opacity=0.25, strokeWidth=7).encode(
        x="adapted_low:Q", x2="adapted_high:Q"
    )
    before = base.mark_point(style="before", shape="diamond", size=60, filled=True, opacity=1).encode(
        x=accuracies, tooltip=tooltip
    )
    after = base.mark_point(style="after", size=70, filled=True, opacity=1).encode(
        x="adapted:Q", tooltip=tooltip
    )
    return Chart(
        name,
        "Accuracy of each class: zero-shot (diamond) to adapted (circle)",
        alt.layer(interval, link, before, after),
        {name: data},
        "The largest gain is at the top. The wide bar is the 95 % Wilson interval of the adapted accuracy.",
        source(evaluation, "per_class.csv"),
        height=max(160, 24 * len(data) + 60),
    )


def confusion_chart(evaluation: Evaluation) -> Chart:
    """Return the confusion matrix of the adapted CLIP."""
    table, name = evaluation.table("confusion"), f"confusion_{evaluation.name}"
    data, order = study_data.confusion(table), list(table.columns[1:])
    names = alt.Axis(labelAngle=-45, labelLimit=140, labelOverlap=len(order) > _ALL_NAMES)
    base = alt.Chart(named(name)).encode(
        x=alt.X("predicted:N", title="predicted", sort=order, axis=names),
        y=alt.Y("true:N", title="true", sort=order),
    )
    shade = alt.Color("share:Q", title="share of the row", scale=alt.Scale(range="heatmap", domain=[0, 1]))
    cells = base.mark_rect().encode(
        color=shade, tooltip=tips("true:N", "predicted:N", "videos:Q", "share:Q", share=".0%", videos="d")
    )
    layers = [cells]
    if len(order) <= _LABELLED:
        ink = alt.condition("datum.share > 0.55", alt.value("#111111"), alt.value("#ffffff"))
        layers.append(
            base.transform_filter("datum.videos > 0")
            .mark_text(fontSize=12)
            .encode(text="videos:Q", color=ink)
        )
    return Chart(
        name,
        "Confusion matrix of the adapted CLIP",
        alt.layer(*layers),
        {name: data},
        "Rows are true classes, columns are predictions. The colour is the share of the row.",
        source(evaluation, "confusion.csv"),
        height=max(220, min(720, 30 * len(order)) + 190),
    )


def source(evaluation: Evaluation, name: str) -> tuple[str, ...]:
    """Return the source line of one file of an evaluation."""
    return (f"{evaluation.root.name}/{Sources(evaluation.root).line(name)}",)


def anchor(name: str) -> str:
    """Convert a name to a part of an anchor or a file name."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)
