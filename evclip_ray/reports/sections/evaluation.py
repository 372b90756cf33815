"""The sections of evaluations that were saved: confusion, per-class gains, what the masks look at."""

import dataclasses
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from evclip_ray.artifacts import LEDGER, ArtifactError, read_ledger
from evclip_ray.reports.charts import study_data
from evclip_ray.reports.charts.masks import mask_pictures
from evclip_ray.reports.charts.study import named, tips
from evclip_ray.reports.document import Block, Chart, Note, Section, Table, with_interval
from evclip_ray.reports.sections.sources import Sources

_FIFTHS = [0, 0.2, 0.4, 0.6, 0.8, 1]
_LABELLED = 20
"""Up to so many classes the cells of a confusion matrix hold their counts."""

_SPARED = 8
"""Up to so many classes each has its name below, on a phone too."""

_SPLITS = {"val": "validation"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One side of an evaluation, as `evaluate` wrote it down; `of`: the rung that it is of, if it is."""

    root: Path
    ledger: dict[str, Any]
    of: str = ""

    @classmethod
    def load_all(cls, folder: Path, of: str = "") -> "list[Evaluation]":
        """Every side in an evaluation's folder.

        Raises:
            ArtifactError: there is none.
        """
        roots = [path for path in (folder, *sorted(folder.glob("*"))) if (path / LEDGER).is_file()]
        if not roots:
            raise ArtifactError(f"{folder}: must be the folder of an evaluation, it has no {LEDGER}")
        return [cls(root, read_ledger(root, "evaluation"), of) for root in roots]

    @property
    def name(self) -> str:
        """Rung, split and side, as part of other names."""
        inputs = self.ledger["inputs"]
        side = inputs.get("side", inputs["split"])
        own = str(inputs["split"] if side == inputs["split"] else f"{inputs['split']}_{side}")
        return anchor(f"{self.of} {own}" if self.of else own)

    def table(self, name: str) -> pd.DataFrame:
        """A table that it wrote; names that read as missing values stay names."""
        return pd.read_csv(self.root / f"{name}.csv", keep_default_na=False, na_values=[""])

    @property
    def brief(self) -> str:
        """Its conditions in a line."""
        inputs, views = self.ledger["inputs"], self.ledger["inputs"]["views"]
        split = _SPLITS.get(inputs["split"], inputs["split"])
        weights = ", ".join(f"{part} {origin}" for part, origin in self.ledger["weights"].items())
        return " · ".join(
            [
                f"{split} split, {self.ledger['counts']['videos']} videos", inputs["protocol"],
                "1 checkpoint", f"{views['temporal']}x{views['spatial']} views",
                f"template {inputs['experiment']['method'].get('template')}", f"weights {weights}",
                f"git {self.ledger['provenance']['git']}",
            ]
        )  # fmt: skip


def evaluation_section(found: Evaluation) -> Section:
    """What an evaluation says, its masks included."""
    split = found.ledger["inputs"]["split"]
    title = f"The best trial on the {_SPLITS.get(split, split)} split"
    if found.ledger["inputs"].get("side", split) != split:
        title += f": {found.ledger['inputs']['side']}"
    blocks: list[Block] = [numbers_table(found)]
    if found.ledger["counts"].get("leaking_rows"):
        rows = found.ledger["counts"]["leaking_rows"]
        blocks.insert(0, Note(f"LEAKS reach {rows} rows: these numbers are too good", loud=True))
    if found.ledger.get("adapted"):
        blocks += [gains_chart(found), confusion_chart(found)]
    blocks += mask_pictures(found.root, found.name, split=_SPLITS.get(split, split))
    return Section(f"evaluation_{found.name}", title, blocks, found.brief)


def numbers_table(found: Evaluation) -> Table:
    """The numbers of the adapted and the zero-shot CLIP."""
    rows = [
        {"scored": title, **{k: v for k, v in numbers.items() if k != "top1_interval"},
         "top1_low": numbers["top1_interval"][0], "top1_high": numbers["top1_interval"][1]}
        for key, title in (("zero_shot", "zero-shot CLIP"), ("adapted", "adapted"))
        if (numbers := found.ledger.get(key))
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    view = pd.DataFrame(
        {"": frame["scored"], "top-1 (95 %)": with_interval(frame, "top1", "top1_low", "top1_high")}
    )
    view = view.assign(**{
        "top-5": frame["top5"], "mean class accuracy": frame["mean_class_accuracy"],
        "log loss, nats": frame["log_loss"], "calibration error": frame["calibration_error"],
        "videos": frame["videos"],
    })  # fmt: skip
    return Table(f"numbers_{found.name}", "Before and after", frame, sources=source(found, LEDGER), view=view)


def gains_chart(found: Evaluation) -> Chart:
    """Accuracy of every class before and after."""
    frame, name = study_data.gains(found.table("per_class")), f"gains_{found.name}"
    base = alt.Chart(named(name)).encode(y=alt.Y("class:N", title=None, sort=list(frame["class"])))
    accuracies = alt.X(
        "zero_shot:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=_FIFTHS)
    )
    said = tips("class:N", "videos:Q", "zero_shot:Q", "adapted:Q", "gain:Q", gain="+.3f", videos="d")
    link = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=accuracies, x2="adapted:Q")
    interval = base.mark_rule(style="after", opacity=0.25, strokeWidth=7).encode(
        x="adapted_low:Q", x2="adapted_high:Q"
    )
    before = base.mark_point(style="before", shape="diamond", size=60, filled=True, opacity=1).encode(
        x=accuracies, tooltip=said
    )
    after = base.mark_point(style="after", size=70, filled=True, opacity=1).encode(
        x="adapted:Q", tooltip=said
    )
    return Chart(
        name, "Accuracy of each class: zero-shot (diamond) to adapted (circle)",
        alt.layer(interval, link, before, after), {name: frame},
        "The largest gain first; the wide bar is the 95 % Wilson interval of the adapted accuracy.",
        source(found, "per_class.csv"), height=max(160, 24 * len(frame) + 60),
    )  # fmt: skip


def confusion_chart(found: Evaluation) -> Chart:
    """The confusion matrix of the adapted CLIP."""
    table, name = found.table("confusion"), f"confusion_{found.name}"
    frame, order = study_data.confusion(table), list(table.columns[1:])
    names = alt.Axis(labelAngle=-45, labelLimit=90, labelOverlap=len(order) > _SPARED)
    base = alt.Chart(named(name)).encode(
        x=alt.X("predicted:N", title="predicted", sort=order, axis=names),
        y=alt.Y("true:N", title="true", sort=order, axis=alt.Axis(labelLimit=110)),
    )
    shade = alt.Color(
        "share:Q", title="share of the true class", scale=alt.Scale(range="heatmap", domain=[0, 1])
    )
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
        name, "Confusion matrix of the adapted CLIP", alt.layer(*layers), {name: frame},
        "A row is the true class, a column the answer; the colour is the share of the row.",
        source(found, "confusion.csv"), height=max(220, min(720, 30 * len(order)) + 170),
    )  # fmt: skip


def source(found: Evaluation, name: str) -> tuple[str, ...]:
    """The source line of one of its files."""
    return (f"{found.root.name}/{Sources(found.root).line(name)}",)


def anchor(name: str) -> str:
    """A name as part of an anchor and of a file's name."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)
