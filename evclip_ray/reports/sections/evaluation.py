"""Sections of saved evaluations: confusion matrix, gains per class, masks."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evclip_ray.artifacts import LEDGER, ArtifactError, read_ledger
from evclip_ray.formatting import counted, sample_size
from evclip_ray.metrics.mask_quality import VideoMaskQuality, mask_quality_lines
from evclip_ray.reports.charts.evaluation import confusion_chart, gains_chart
from evclip_ray.reports.charts.masks import mask_pictures
from evclip_ray.reports.document import Block, Note, Section, Table, with_interval
from evclip_ray.reports.sections.sources import Sources

_SPLITS = {"val": "validation"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation set, as `evaluate` wrote it.

    Attributes:
        root: Its folder.
        ledger: Its `ledger.json`.
        of: Step of the ladder, or empty.
        tag: What tells it apart from others of the same split and evaluation set; empty for the first one.
    """

    root: Path
    ledger: dict[str, Any]
    of: str = ""
    tag: str = ""

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
        return anchor(" ".join(filter(None, (self.of, name, self.tag))))

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
                f"{split} split, {counted(self.ledger['counts']['videos'], 'video')}",
                inputs["protocol"],
                "1 checkpoint",
                f"{views['temporal']}x{views['spatial']} views",
                f"template {inputs['experiment']['method'].get('template')}",
                f"weights {weights}",
                *([f"computed in {computed}"] if computed else []),
                f"git {self.ledger['provenance']['git']}",
            ]
        )


def tell_apart(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations with different names, which name their sections, charts and CSV files.

    Scores on another list are often of the same split. They are told apart by their folders.
    """
    count: collections.Counter[str] = collections.Counter()
    named = []
    for each in evaluations:
        if count[each.name]:
            tag = "/".join(each.root.parts[-2:]) if each.root.name in ("base", "novel") else each.root.name
            each = dataclasses.replace(each, tag=tag)
            # The same folder may be given twice.
            while count[each.name]:
                each = dataclasses.replace(each, tag=f"{each.tag} again")
        count[each.name] += 1
        named.append(each)
    return named


def evaluation_section(evaluation: Evaluation) -> Section:
    """Return the section of an evaluation, with its masks."""
    split = evaluation.ledger["inputs"]["split"]
    blocks: list[Block] = [numbers_table(evaluation)]
    if evaluation.ledger["counts"].get("leaking_rows"):
        rows = evaluation.ledger["counts"]["leaking_rows"]
        blocks.insert(
            0, Note(f"LEAKS affect {counted(rows, 'row')}, so these numbers are too high", loud=True)
        )
    if evaluation.ledger.get("adapted"):
        gains, confusion = (source(evaluation, f"{table}.csv") for table in ("per_class", "confusion"))
        blocks += [
            gains_chart(evaluation.name, evaluation.table("per_class"), gains),
            confusion_chart(evaluation.name, evaluation.table("confusion"), confusion),
        ]
    blocks += mask_quality_blocks(evaluation)
    blocks += mask_pictures(evaluation.root, evaluation.name, split=_SPLITS.get(split, split))
    title, label = evaluation_title(evaluation), evaluation_label(evaluation)
    return Section(f"evaluation_{evaluation.name}", title, blocks, evaluation.brief, label)


def evaluation_title(evaluation: Evaluation) -> str:
    """Return the title of the section of an evaluation."""
    split = evaluation.ledger["inputs"]["split"]
    title = f"The best trial on the {_SPLITS.get(split, split)} split"
    if evaluation.ledger["inputs"].get("side", split) != split:
        title += f": {evaluation.ledger['inputs']['side']}"
    return title + (f" ({evaluation.tag}/)" if evaluation.tag else "")


def evaluation_label(evaluation: Evaluation) -> str:
    """Return the name of an evaluation in the navigation: its split, or its evaluation set."""
    split = evaluation.ledger["inputs"]["split"]
    eval_set = evaluation.ledger["inputs"].get("side", split)
    label = f"{_SPLITS.get(split, split)} split".capitalize() if eval_set == split else str(eval_set)
    return label + (f" ({evaluation.tag}/)" if evaluation.tag else "")


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


def source(evaluation: Evaluation, name: str) -> tuple[str, ...]:
    """Return the source line of one file of an evaluation."""
    return (f"{evaluation.root.name}/{Sources(evaluation.root).line(name)}",)


def anchor(name: str) -> str:
    """Convert a name to a part of an anchor or a file name."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)
