"""The command `cost`."""

from pathlib import Path
from typing import Any

import click

from evclip_ray.cli.display import console, rows_table
from evclip_ray.cli.options import example, settings
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.config import parse_assignments
from evclip_ray.formatting import counted, megabytes
from evclip_ray.progress import stage


@click.command(
    epilog=example("evclip-ray cost ev_clip --backbone ViT-B-16 --set view.num_frames=16 --batch 1 --batch 8")
)
@click.argument("method")
@click.option("--backbone", default=None, metavar="NAME", help="Backbone. Default: ViT-B-16.")
@click.option("--classes", type=click.IntRange(1), default=101, show_default=True, help="Number of classes.")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Batch size of the measured steps, in videos. Repeatable.",
)
@click.option("--repeats", type=click.IntRange(1), default=10, show_default=True, help="Timed steps.")
@click.option(
    "--measure/--count-only",
    default=True,
    show_default=True,
    help="Measure time, memory and energy on this machine, or only count operations.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="JSON file for the costs."
)
@settings
def cost(
    method: str,
    backbone: str | None,
    classes: int,
    batches: tuple[int, ...],
    repeats: int,
    measure: bool,
    out: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Print parameters, operations, time, memory and energy of a METHOD on a backbone.

    Operations are in GMAC (1e9 multiply-accumulates) per video. Weights are random and no video is read.
    """
    from evclip_ray.training.experiment import ExperimentConfig

    chosen = {"method.name": method} | ({"backbone.name": backbone} if backbone else {})
    # No video is read, because costs depend on shapes only; but a config must name its videos.
    no_videos = {"data": {"manifest": "none"}}
    experiment = ExperimentConfig.load(no_videos, {**chosen, **parse_assignments(assignments)})
    load_torch()
    from evclip_ray.artifacts import provenance, write_json
    from evclip_ray.profiling.counted import count_cost
    from evclip_ray.profiling.measured import measure_cost

    names = [f"class number {index}" for index in range(classes)]
    with bars(), stage("counting operations"):
        counts = count_cost(experiment, names).record()
    _show_counted(counts)
    measured = []
    if measure:
        with bars(), stage("measuring steps in a new process"):
            measured = measure_cost(experiment, names, batch_sizes=batches, repeats=repeats)
        _show_measured([vars(row) for row in measured])
    if out:
        write_json(
            out,
            {
                "counted": counts,
                "measured": [vars(row) for row in measured],
                "experiment": experiment.model_dump(mode="json"),
                "provenance": provenance(),
            },
        )


def _show_counted(cost: dict[str, Any]) -> None:
    console.print(
        f"{cost['method']} on {cost['backbone']}, {counted(cost['num_frames'], 'frame')}, "
        f"{counted(cost['num_classes'], 'class')}\n"
        f"  trainable    {counted(cost['trainable_parameters'], 'parameter')}\n"
        f"  total        {counted(cost['total_parameters'], 'parameter')}\n"
        f"  checkpoint   {megabytes(cost['checkpoint_bytes'])}\n"
        f"  class texts  {cost['class_text_gmac']:.4g} GMAC, once",
        soft_wrap=True,
    )
    inference, training = cost["inference_gmac"], cost["training_gmac"]
    rows = [
        {
            "part": part.replace("_", " "),
            "inference": inference.get(part, 0.0),
            f"training, batch {cost['training_batch']}": training.get(part, 0.0),
        }
        for part in (*training, *(inference.keys() - training.keys()))
    ]
    total = [sum(inference.values()), sum(training.values())]
    rows.append(dict(zip(rows[0], ["total", *total], strict=True)))
    console.print(rows_table("GMAC per video (1 MAC = 2 FLOP), with attention", rows))


def _show_measured(rows: list[dict[str, Any]]) -> None:
    shown = [
        {
            "step": row["phase"],
            "batch": row["batch"],
            "median ms": 1e3 * row["median_seconds"],
            "p95 ms": 1e3 * row["p95_seconds"],
            "videos/s": row["videos_per_second"],
            "memory at rest": _measured(row["rest_bytes"]),
            "peak above it": _measured(row["peak_bytes"]),
            "J/video": "not measured" if row["joules_per_video"] is None else row["joules_per_video"],
        }
        for row in rows
    ]
    first = rows[0]
    title = (
        f"Measured on {first['device']}, {first['precision']}, {counted(first['repeats'], 'warm step')} each"
    )
    console.print(rows_table(title, shown))
    if first["energy_note"]:
        console.print(f"energy {first['energy_note']}")


def _measured(num_bytes: int | None) -> str:
    return "not measured" if num_bytes is None else megabytes(num_bytes)
