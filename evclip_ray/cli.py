"""The command line: each command parses, calls one function and prints."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray import __version__
from evclip_ray.config import ConfigError, parse_assignments
from evclip_ray.terminal import (
    DecodeView,
    StudyView,
    bars,
    console,
    leaderboard_table,
    rows_table,
    zero_shot_line,
)

if TYPE_CHECKING:
    from evclip_ray.deploy.assess import Assessment

INTERRUPTED = 130


class OneLineErrors(click.Group):
    """Shows the user's mistakes as one line, exit status 1; `--verbose` gives the traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            console.print("\ninterrupted; everything finished is kept. Go on with:")
            console.print(f"  {_this_command()}", soft_wrap=True, markup=False)
            context.exit(INTERRUPTED)
        except (ValueError, OSError) as error:
            if context.params.get("verbose"):
                raise
            raise click.ClickException(str(error)) from None


def _example(text: str) -> str:
    return f"\b\nExample:\n  {text}"


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Override a setting; repeatable."
    )(command)


def _cache(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--cache", type=click.Path(path_type=Path), envvar="EVCLIP_RAY_CACHE", default=None,
        help="Folder of decoded videos, shared by all runs (default: ~/.cache/evclip-ray).",
    )(command)  # fmt: skip


def _address(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--address",
        default=None,
        help="A running Ray cluster: auto or ray://HOST:10001 (default: this machine).",
    )(command)


def _data(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--data", default=None, help="Manifest (CSV, Parquet) or a folder of class folders."
    )(command)
    return click.option("--root", default=None, help="Folder that the manifest's paths are relative to.")(
        command
    )


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--verbose", is_flag=True, help="Show Ray's own log, and tracebacks.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Find the EV-CLIP prompts that work best on your own videos."""
    context.obj = verbose
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


@main.command(epilog=_example("evclip-ray check"))
def check() -> None:
    """Say what this machine has: versions, devices, decoder, shipped search spaces."""
    import torch

    from evclip_ray.artifacts import provenance
    from evclip_ray.data.decode import decoder_name
    from evclip_ray.tuning.search_space import read_space, shipped_spaces

    found = provenance()["versions"]
    rows = [("python", sys.version.split()[0]), *found.items(), ("decoder", decoder_name())]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [("GPUs", ", ".join(gpus) or "none: training runs on the CPU"), ("CPUs", str(os.cpu_count()))]
    for name, value in rows:
        click.echo(f"{name:<16} {value}")
    for name, path in shipped_spaces().items():
        placeholder = {} if name == "quickstart" else {"data.manifest": "."}
        read_space(path, placeholder)
        click.echo(f"{'search space':<16} {name}: valid")


@main.group()
def manifest() -> None:
    """Make a list of videos, or look at one."""


@manifest.command(epilog=_example("evclip-ray manifest verify videos/manifest.csv"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--root", type=click.Path(path_type=Path), default=None, help="Folder the paths are relative to."
)
@click.option("--workers", default=os.cpu_count(), show_default=True, help="Videos decoded at once.")
@click.pass_context
def verify(context: click.Context, file: Path, root: Path | None, workers: int) -> None:
    """Decode every video once and say which are broken, and how. Exit status 1 if any is."""
    from evclip_ray.data.manifest import read_manifest
    from evclip_ray.data.verify import verify_manifest

    listed = read_manifest(file, root=root)
    broken = 0
    with bars() as progress:
        task = progress.add_task("verifying", total=len(listed))
        for report in verify_manifest(listed, workers=workers):
            progress.advance(task)
            if not report.ok:
                broken += 1
                console.print(f"broken  {report.path}: {report.reason}", soft_wrap=True, markup=False)
    click.echo(f"{len(listed)} videos, {len(listed.classes)} labels, {broken} broken")
    if broken:
        context.exit(1)


@manifest.command(
    "import", epilog=_example("evclip-ray manifest import ucf101 --root UCF-101 --split 1 --out ucf101.csv")
)
@click.argument("dataset")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder of the videos.")
@click.option(
    "--lists", type=click.Path(path_type=Path), default=None,
    help="Folder of the official lists (default: in or beside the root).",
)  # fmt: skip
@click.option("--split", type=int, default=None, help="Official split, where there are several.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The manifest to write.")
@click.option("--allow-leaks", is_flag=True, help="Write it though splits share videos, groups or bytes.")
@click.option(
    "--compare-bytes/--no-compare-bytes", default=True, show_default=True,
    help="Look for one video under two names.",
)  # fmt: skip
@_settings
@click.pass_obj
def import_manifest(
    verbose: bool, dataset: str, root: Path, lists: Path | None, split: int | None, out: Path,
    allow_leaks: bool, compare_bytes: bool, assignments: tuple[str, ...],
) -> None:  # fmt: skip
    """Turn official lists into a manifest, and say what does not fit.

    DATASET: ucf101, hmdb51, arid, egtea, epic_kitchens, ssv2, kinetics, or a form of list: path_label,
    mmaction, ez_clip, ev_clip_shots. Its own options go to --set, as in --set version=1.5.
    """
    from evclip_ray.data.datasets import import_dataset
    from evclip_ray.data.leaks import refuse_leaks
    from evclip_ray.data.manifest import write_manifest

    options = {"lists": lists, "split": split}
    given = {name: value for name, value in options.items() if value is not None}
    report = import_dataset(dataset, root, **given, **parse_assignments(assignments))
    listed = report.manifest
    splits = ", ".join(f"{name} {len(listed.in_split(name))}" for name in listed.splits())
    click.echo(f"{listed.source}: {len(listed)} videos ({splits}), {len(report.classes)} classes")
    for name in ("missing", "unlisted", "duplicates", "mislabelled"):
        rows = getattr(report, name)
        click.echo(f"{name:<12} {len(rows)}")
        shown = rows if verbose else rows[:3]
        for row in shown:
            click.echo(f"  {row}")
        if len(rows) > len(shown):
            click.echo(f"  and {len(rows) - len(shown)} more; evclip-ray --verbose shows all")
    leaks = refuse_leaks(listed, allow=allow_leaks, content=compare_bytes)
    write_manifest(listed, out)
    click.echo(f"{'leaks':<12} {len(leaks)}\nwrote {out}; use it with --data {out} --root {listed.root}")


@main.command(
    epilog=_example(
        "evclip-ray shards --data videos/manifest.csv --split train --split val --set view.num_frames=16"
    )
)
@_data
@click.option("--split", "splits", multiple=True, default=("train", "val"), show_default=True)
@_settings
@_cache
@_address
@click.pass_obj
def shards(
    verbose: bool, data: str | None, root: str | None, splits: tuple[str, ...],
    assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """Decode videos into Arrow shards ahead of time; finished shards are kept."""
    from evclip_ray.cluster import connect
    from evclip_ray.training.experiment import ExperimentConfig
    from evclip_ray.training.videos import plan_videos, prepare

    cache = _cache_folder(cache)
    experiment = ExperimentConfig.load({}, {**_sources(data, root), **parse_assignments(assignments)})
    plan = plan_videos(experiment, cache=cache, splits=splits)
    with connect(address, verbose=verbose), bars() as progress:
        videos = prepare(plan, cache=cache, progress=DecodeView(progress))
    for split, found in videos.sets.items():
        click.echo(
            f"{split}: {len(found)} videos, {len(found.shards.skipped)} skipped, in {found.shards.folder}"
        )


@main.command(epilog=_example("evclip-ray train studies/debug/best.yaml --set seed=1 --out runs/best-seed1"))
@click.argument("config", type=click.Path(path_type=Path))
@_data
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the run (default: runs/NAME)."
)
@click.option("--workers", default=1, show_default=True, help="Training processes (Ray Train, DDP).")
@click.option("--cpus-per-worker", default=1.0, show_default=True)
@click.option("--gpus-per-worker", default=None, type=float, help="Default: 1 where there are any.")
@_settings
@_cache
@_address
@click.pass_obj
def train(
    verbose: bool, config: Path, data: str | None, root: str | None, out: Path | None, workers: int,
    cpus_per_worker: float, gpus_per_worker: float | None,
    assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """Train one experiment, for example a study's best.yaml; the same command again resumes it."""
    from evclip_ray.cluster import connect
    from evclip_ray.training.experiment import read_experiment
    from evclip_ray.training.train import train_experiment

    experiment = read_experiment(config, {**_sources(data, root), **parse_assignments(assignments)})
    out = out or Path("runs") / config.stem
    with connect(address, verbose=verbose, dashboard=workers > 1) as machines, bars() as progress:
        metrics = train_experiment(
            experiment, folder=out, cache=_cache_folder(cache), machines=machines, workers=workers,
            cpus=cpus_per_worker, gpus=gpus_per_worker, decoding=DecodeView(progress), say=_say_epoch,
        )  # fmt: skip
    console.print(
        f"best epoch {metrics['best_epoch']}: val top-1 {metrics['best_val_top1']:.3f} "
        f"on {metrics['val_videos']} videos (zero-shot CLIP {metrics['zero_shot_top1']:.3f})\n"
        f"evaluate it:  evclip-ray evaluate {out / 'best'} --split test",
        soft_wrap=True,
    )


@main.command(
    epilog=_example(
        "evclip-ray tune search_spaces/debug.yaml --data videos/manifest.csv --trials 16 --out studies/mine"
    )
)
@click.argument("space")
@_data
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the study (default: studies/NAME).",
)
@click.option("--trials", type=int, default=None, help="Trials in all; raise it later to add some.")
@click.option("--seed", type=int, default=None, help="Seed of the searcher.")
@click.option("--workers", type=int, default=None, help="Training processes of one trial.")
@click.option("--cpus-per-worker", type=float, default=None)
@click.option("--gpus-per-worker", type=float, default=None)
@click.option("--dry-run", is_flag=True, help="Print trials, resources and cost, and stop.")
@_settings
@_cache
@_address
@click.pass_context
def tune(
    context: click.Context, space: str, data: str | None, root: str | None, out: Path | None,
    trials: int | None, seed: int | None, workers: int | None, cpus_per_worker: float | None,
    gpus_per_worker: float | None, dry_run: bool, assignments: tuple[str, ...], cache: Path | None,
    address: str | None,
) -> None:  # fmt: skip
    """Search prompt sizes, learning rates and backbones; the same command again resumes."""
    from evclip_ray.cluster import connect
    from evclip_ray.tuning.search_space import find_space, read_space
    from evclip_ray.tuning.tuner import StudyRun

    study = {
        "trials": trials, "seed": seed, "workers": workers, "cpus": cpus_per_worker, "gpus": gpus_per_worker,
    }  # fmt: skip
    searched = read_space(
        find_space(space),
        {**_sources(data, root), **parse_assignments(assignments)},
        study={name: value for name, value in study.items() if value is not None},
    )
    run = StudyRun(searched, out or Path("studies") / searched.name, cache=_cache_folder(cache))
    if run.missing() == 0:
        console.print(f"all {searched.study.trials} trials are done; raise --trials to add some\n")
        _show_study(run.folder.root, run.folder.write_leaderboard())
        return
    with connect(address, verbose=context.obj, dashboard=searched.study.workers > 1) as machines:
        plan = run.plan(machines, measure=dry_run)
        console.print(f"study {searched.name} in {run.folder.root}", soft_wrap=True)
        for heading, text in plan.lines():
            console.print(f"  {heading:<10} {text}", soft_wrap=True, markup=False)
        if dry_run:
            return
        run.claim()
        with bars() as progress:
            run.prepare(DecodeView(progress))
        with bars() as progress:
            outcome = run.run(plan, StudyView(progress, trials=plan.missing, epochs=plan.epochs))
    if not outcome.missing:
        _show_study(run.folder.root, outcome.rows)
        if all(row["state"] == "failed" for row in outcome.rows):
            raise click.ClickException(f"every trial failed; the first: {outcome.rows[0]['error']}")
        return
    console.print(f"\n{outcome.missing} trials are still to be run; everything finished is kept. Go on with:")
    console.print(f"  {_this_command()}", soft_wrap=True, markup=False)
    context.exit(INTERRUPTED)


@main.command(
    epilog=_example(
        "evclip-ray evaluate studies/debug/best --data dark.csv --protocol cross_domain --views 4x3"
    )
)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@_data
@click.option("--split", default="test", show_default=True)
@click.option(
    "--protocol", default="closed_set", show_default=True,
    help="closed_set, cross_dataset (its own classes), cross_domain (shared ones), base_to_novel, zero_shot.",
)  # fmt: skip
@click.option(
    "--views", default="1x1", show_default=True, help="Views of a video, TEMPORALxSPATIAL, such as 4x3."
)
@click.option(
    "--average", default="probability", show_default=True, help="What of the views: probability or logit."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None,
    help="Folder of the tables, or of a folder for each checkpoint (default: CHECKPOINT-SPLIT).",
)  # fmt: skip
@_settings
@_cache
@_address
@click.pass_obj
def evaluate(
    verbose: bool, checkpoints: tuple[Path, ...], data: str | None, root: str | None, split: str,
    protocol: str, views: str, average: str, out: Path | None,
    assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """Score checkpoints on a split, beside zero-shot CLIP on the same views.

    Several checkpoints, of runs that differ in their seed, also give the mean and its interval.
    """
    from evclip_ray.cluster import connect
    from evclip_ray.deploy.assess import assess, mean_over_checkpoints
    from evclip_ray.deploy.reading import plan_reading
    from evclip_ray.evaluation.views import EvaluationViews
    from evclip_ray.training.videos import is_prepared, prepare

    cache = _cache_folder(cache)
    overrides = {**_sources(data, root), **parse_assignments(assignments)}
    scored = EvaluationViews.parse(views, average)
    found = []
    for number, checkpoint in enumerate(checkpoints):
        reading = plan_reading(
            checkpoint, overrides, split=split, cache=cache, protocol=protocol, views=scored
        )
        if all(is_prepared(plan, cache) for plan in reading.plans.values()):
            videos = {side: prepare(plan, cache=cache) for side, plan in reading.plans.items()}
        else:
            with connect(address, verbose=verbose), bars() as progress:
                videos = {
                    side: prepare(plan, cache=cache, progress=DecodeView(progress))
                    for side, plan in reading.plans.items()
                }
        tables = out or checkpoint.with_name(f"{checkpoint.name}-{split}")
        if out is not None and len(checkpoints) > 1:
            tables = out / f"{number}-{checkpoint.parent.name}"
        found.append(assess(reading, videos, out=tables))
        _show_assessments(found[-1])
        console.print(f"confusion matrix, per-class and per-video tables: {tables}", soft_wrap=True)
    for side, means in mean_over_checkpoints(found).items():
        for name, mean in means.items():
            if mean.interval is not None:
                low, high = mean.interval
                console.print(
                    f"{side}: {_SCORED[name]}, mean top-1 over {mean.num_seeds} checkpoints {mean.mean:.3f}"
                    f" (95 % t interval {low:.3f} to {high:.3f})",
                    soft_wrap=True,
                )


@main.command(
    "import-checkpoint",
    epilog=_example(
        "evclip-ray import-checkpoint model.pth.tar --data videos/manifest.csv --out runs/published"
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@_data
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
@_settings
@_cache
def import_checkpoint(
    file: Path,
    data: str | None,
    root: str | None,
    out: Path,
    assignments: tuple[str, ...],
    cache: Path | None,
) -> None:
    """Take over a published EV-CLIP model file; its classes are those of --data."""
    from evclip_ray.deploy import import_checkpoint as published

    overrides = {**_sources(data, root), **parse_assignments(assignments)}
    record = published.import_checkpoint(file, out, overrides, cache=_cache_folder(cache))
    method = record["experiment"]["method"]
    console.print(
        f"{method['prompts']} prompts, {record['num_trainable']:,} parameters, "
        f"{len(record['classes'])} classes, in {out}\nevaluate it:  evclip-ray evaluate {out} --split test",
        soft_wrap=True,
    )


@main.command(
    epilog=_example(
        "evclip-ray shift day/manifest.csv night/manifest.csv --split train --split test --out shift"
    )
)
@click.argument("manifests", nargs=-1, required=True, metavar="A B [C ...]")
@click.option(
    "--split", "splits", multiple=True, default=("train",), show_default=True,
    help="Split of every set, or given once for each set, in their order.",
)  # fmt: skip
@click.option(
    "--root",
    "roots",
    multiple=True,
    help="Folder that paths are relative to; for every set, or one for each.",
)
@click.option(
    "--videos", default=1000, show_default=True, help="Read at most so many of each set, drawn by seed."
)
@click.option(
    "--predictions", type=click.Path(path_type=Path), default=None,
    help="predictions.csv of an evaluation on one of the sets: which factors go with being right.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("shift"), show_default=True)
@_settings
@_cache
@_address
@click.pass_obj
def shift(
    verbose: bool, manifests: tuple[str, ...], splits: tuple[str, ...], roots: tuple[str, ...], videos: int,
    predictions: Path | None, out: Path, assignments: tuple[str, ...], cache: Path | None,
    address: str | None,
) -> None:  # fmt: skip
    """Say how far apart two or more sets of videos are, and in what.

    A, B, ...: manifests. Looks and motion, distances in zero-shot CLIP's features, nearness of classes.
    The measures are our own, not those of a paper.
    """
    from evclip_ray.cluster import connect
    from evclip_ray.deploy.compare_sets import comparison_inputs, measure_sets, plan_sets
    from evclip_ray.evaluation.association import read_predictions
    from evclip_ray.evaluation.domain_shift import TITLES, claim, compare, explain, write
    from evclip_ray.reports.shift_figures import draw_shift
    from evclip_ray.training.videos import is_prepared, prepare

    cache, settings = _cache_folder(cache), parse_assignments(assignments)
    claim(out)
    predicted = read_predictions(predictions) if predictions else None
    sources = zip(manifests, _one_each("--root", roots or (None,), len(manifests)), strict=True)
    overrides = [{**_sources(manifest, root), **settings} for manifest, root in sources]
    plans = plan_sets(
        manifests, _one_each("--split", splits, len(manifests)), overrides, most=videos, cache=cache
    )
    decoded = []
    for chosen in plans:
        if is_prepared(chosen.plan, cache):
            decoded.append(prepare(chosen.plan, cache=cache))
            continue
        with connect(address, verbose=verbose), bars() as progress:
            decoded.append(prepare(chosen.plan, cache=cache, progress=DecodeView(progress)))
    with bars() as progress:
        domains, weights = measure_sets(plans, decoded, progress=DecodeView(progress, "measuring"))
    tables = compare(domains, seed=plans[0].experiment.seed)
    if predicted:
        tables["association"] = explain(domains, predicted, seed=plans[0].experiment.seed)
    write(out, domains, tables, inputs=comparison_inputs(plans, decoded, predictions), weights=weights)
    draw_shift(out, domains, tables)
    _warn_random(weights)
    for chosen in plans:
        console.print(
            f"{chosen.name}: {chosen.num_videos} of {chosen.total} {chosen.split} videos", markup=False
        )
    for name, title in TITLES.items():
        if name in tables:
            console.print(rows_table(title, tables[name]))
    console.print(f"tables, every video's factors, and figures: {out}", soft_wrap=True, markup=False)


_SCORED = {"adapted": "adapted", "zero_shot": "zero-shot CLIP"}


def _show_assessments(sides: "dict[str, Assessment]") -> None:
    from evclip_ray.evaluation.metrics import harmonic_mean

    for side, found in sides.items():
        _warn_random(found.weights)
        if found.leaking_rows:
            console.print(f"LEAKS reach {found.leaking_rows} rows: these numbers are too good")
        if len(sides) > 1:
            console.print(f"{side}: {len(found.classes)} classes")
        for name, numbers in reversed(found.numbers.items()):
            low, high = numbers["top1_interval"]
            console.print(
                f"{_SCORED[name]:<15} top-1 {numbers['top1']:.3f} (95 % interval {low:.3f} to {high:.3f})"
                f"  top-5 {numbers['top5']:.3f}  mean class accuracy {numbers['mean_class_accuracy']:.3f}"
                f"  calibration error {numbers['calibration_error']:.3f}  on {numbers['videos']} videos",
                soft_wrap=True,
            )
        for label, videos, accuracies in found.per_class:
            each = "  ".join(
                f"{_SCORED[name].removesuffix(' CLIP')} {value:.3f}"
                for name, value in zip(found.numbers, accuracies, strict=True)
            )
            console.print(f"  {label:<24} {videos:>5} videos  {each}", markup=False)
        if found.skipped:
            console.print(f"{found.skipped} videos could not be decoded and were left out")
    if set(sides) == {"base", "novel"}:
        for name in reversed(sides["base"].numbers):
            base, novel = (sides[side].numbers[name]["top1"] for side in ("base", "novel"))
            console.print(f"{_SCORED[name]:<15} harmonic mean of top-1 {harmonic_mean(base, novel):.3f}")


@main.group("cache")
def cache_group() -> None:
    """Look after the frozen networks' features that runs with a bank of views (data.bank) share."""


@cache_group.command("ls", epilog=_example("evclip-ray cache ls"))
@_cache
def cache_ls(cache: Path | None) -> None:
    """List what is kept: its key, of which network, how large."""
    from evclip_ray.features.store import entries

    for entry in entries(_cache_folder(cache) / "features"):
        click.echo(
            f"{entry.folder.name}  {entry.kind:<14} {entry.network} ({entry.origin}, {entry.precision})  "
            f"{entry.views} views, {entry.files} files, {entry.num_bytes / 2**20:.1f} MB"
        )


@cache_group.command("rm", epilog=_example("evclip-ray cache rm 3f0c"))
@click.argument("key")
@_cache
def cache_rm(key: str, cache: Path | None) -> None:
    """Remove the features whose KEY, or its beginning, `cache ls` shows."""
    from evclip_ray.features.store import remove

    entry = remove(_cache_folder(cache) / "features", key)
    click.echo(f"removed {entry.folder.name}: {entry.kind} of {entry.network}")


@cache_group.command("verify", epilog=_example("evclip-ray cache verify"))
@_cache
@click.pass_context
def cache_verify(context: click.Context, cache: Path | None) -> None:
    """Compare every file with its digest. Exit status 1 if any is damaged; a study makes it again."""
    from evclip_ray.features.store import damaged, entries

    kept = list(entries(_cache_folder(cache) / "features"))
    broken = [path for entry in kept for path in damaged(entry)]
    for path in broken:
        click.echo(f"damaged  {path}")
    click.echo(f"{sum(entry.files for entry in kept)} files, {len(broken)} damaged")
    if broken:
        context.exit(1)


def _show_study(root: Path, rows: list[dict[str, Any]]) -> None:
    from evclip_ray.training.checkpoint import CONFIG, read_record

    console.print(leaderboard_table(rows))
    console.print(zero_shot_line(rows))
    if (root / "best" / CONFIG).is_file():
        _warn_random(read_record(root / "best")["weights"])
    console.print(
        f"\nleaderboard   {root / 'leaderboard.csv'}\n"
        f"watch         tensorboard --logdir {root}\n"
        f"train it      evclip-ray train {root / 'best.yaml'}\n"
        f"test it       evclip-ray evaluate {root / 'best'} --split test",
        soft_wrap=True,
    )


def _warn_random(weights: dict[str, str]) -> None:
    random = [part for part, origin in weights.items() if origin == "random"]
    if random:
        console.print(
            f"RANDOM WEIGHTS in {' and '.join(random)}: these numbers say nothing of a trained CLIP"
        )


def _say_epoch(metrics: dict[str, Any]) -> None:
    if metrics.get("diverged"):
        console.print(f"epoch {metrics['epoch']:>3}  diverged: the loss is not a number; lower optim.lr")
        return
    console.print(
        f"epoch {metrics['epoch']:>3}  loss {metrics['train_loss']:.4f}  val top-1 {metrics['val_top1']:.3f}"
        f"  val loss {metrics['val_loss']:.4f}  {metrics['seconds']:.1f} s"
    )


def _sources(data: str | None, root: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if data is not None:
        # Absolute, so that best.yaml works from any folder.
        found |= {
            "data.manifest": data if "://" in data else str(Path(data).expanduser().resolve()),
            "data.synthetic": None,
        }
    if root is not None:
        found["data.root"] = str(Path(root).expanduser().resolve())
    return found


def _one_each(option: str, values: Sequence[Any], count: int) -> list[Any]:
    """A value for each of `count` sets: the one given, or as many as there are sets."""
    if len(values) not in (1, count):
        raise ConfigError(f"{option} must be given once, or once for each of {count} sets; got {len(values)}")
    return list(values) if len(values) == count else list(values) * count


def _cache_folder(cache: Path | None) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (cache or base / "evclip-ray").expanduser().resolve()


def _this_command() -> str:
    return shlex.join(["evclip-ray", *sys.argv[1:]])
