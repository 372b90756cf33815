"""Section on the speed of a study's training steps relative to its devices: one line, and a row per trial."""

import pandas as pd

from evclip_ray.formatting import counted, percent
from evclip_ray.records import SPEED, SPEED_SHARES
from evclip_ray.reports.document import Block, Note, Section, Table
from evclip_ray.results import Ladder, Study
from evclip_ray.training.matrix_rate import MatrixRate
from evclip_ray.training.speed import SPEED as MEASURED

_HEADINGS = {
    "matrix_share": "of the matrix rate",
    "bare_share": "of the bare model's videos/s",
    "wait_share": "waiting for input",
}
_NUM_SHOWN = 3
_CAPTION = (
    "Medians over epochs. The operations are those of the forward and backward pass, without recomputation. "
    "The bare model computes the gradients of a batch that is on the device already. A dash marks trials "
    "that were too short to be measured, or those of an earlier version."
)


def speed_sections(study: Study) -> list[Section]:
    """Return the section, or nothing while no trial has finished an epoch."""
    if study.best is None:
        return []
    blocks: list[Block] = [Note(_line(study))]
    trials = study.trials.reindex(columns=["trial", *SPEED, "conditions"])
    if trials[list(SPEED_SHARES)].notna().any(axis=None):
        blocks.append(_table(trials))
    return [Section("speed", "Speed", blocks)]


def speed_of_steps(ladder: Ladder) -> list[Table]:
    """Return the table of the medians of each step of a ladder, or nothing if none was measured."""
    rows = [{"rung": name, **study.speed} for name, study in ladder.steps.items() if study.speed]
    if not rows:
        return []
    data = pd.DataFrame(rows).reindex(columns=["rung", *SPEED])
    view = pd.DataFrame({"step": data["rung"]})
    view = view.assign(**{heading: data[name].map(percent) for name, heading in _HEADINGS.items()})
    files = ("rungs/*/trials/*/history.jsonl",)
    return [Table("speed", "Speed of the training steps", data, _CAPTION, files, view)]


def _line(study: Study) -> str:
    matrix, bare, wait = (percent(study.speed.get(name)) for name in SPEED_SHARES)
    rate, shares = _rate(study), study.trials.reindex(columns=list(SPEED_SHARES))
    measured = int(shares.notna().any(axis=1).sum())
    remark = f"These are medians of {counted(measured, 'trial')}."
    if not measured:
        remark = "An earlier version ran the trials and did not measure this."
    return (
        f"A training step used {matrix} of the device's matrix rate{f' ({rate})' if rate else ''} and ran at "
        f"{bare} of the bare model's videos/s. It waited for input for {wait} of its time. {remark}"
        f"{_shared(study)}"
    )


def _rate(study: Study) -> MatrixRate | None:
    measured = study.best_record.get(MEASURED, {})
    if "matrix_flop_per_second" not in measured:
        return None
    return MatrixRate(
        measured["matrix_flop_per_second"],
        measured["device"],
        measured["matrix_format"],
        measured["threads"],
    )


def _shared(study: Study) -> str:
    count = study.ledger.get("gpu_share", {}).get("count", 1)
    if count < 2:
        return ""
    return f" {counted(count, 'trial')} shared a GPU, and their shares of its matrix rate add up."


def _table(trials: pd.DataFrame) -> Table:
    view = pd.DataFrame({"trial": trials["trial"]})
    view = view.assign(**{heading: trials[name].map(percent) for name, heading in _HEADINGS.items()})
    view["step, s"] = trials["step_seconds"]
    files = ("trials/*/history.jsonl", "best/config.json")
    return Table("speed", "Speed of the trials", trials, _CAPTION, files, view, num_shown=_NUM_SHOWN)
