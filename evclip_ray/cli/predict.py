"""The command `predict`."""

import contextlib
import math
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from evclip_ray.cli.display import error_console, print_random_weights
from evclip_ray.cli.early_checks import check_checkpoint
from evclip_ray.cli.options import example, settings
from evclip_ray.cli.prediction_output import Results, opened
from evclip_ray.cli.prediction_plan import PredictionPlan
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.config import parse_assignments
from evclip_ray.formatting import counted, duration
from evclip_ray.progress import stage
from evclip_ray.termination import exit_status

if TYPE_CHECKING:
    from evclip_ray.deploy.inputs import LiveSource
    from evclip_ray.deploy.predictions import FailedVideo, Prediction, WindowPrediction
    from evclip_ray.deploy.recognizer import Recognizer

_LIVE_WINDOW_SECONDS = 2.0
_TABLE_CLASSES = 3


def _positive(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"must be a positive number, got {value:g}")
    return value


@click.command(
    epilog=example("evclip-ray predict studies/first/best videos/ 'more/*.mp4' --window 2 --stride 1")
)
@click.argument("checkpoint")
@click.argument("videos", nargs=-1, required=True)
@click.option(
    "--window",
    type=float,
    callback=_positive,
    metavar="SECONDS",
    help="Predict in windows of this length. Without it, one view of the whole video is predicted, as in "
    "training; of a camera or stream, windows of 2 seconds.",
)
@click.option(
    "--stride",
    type=float,
    callback=_positive,
    metavar="SECONDS",
    help="Distance between the starts of two windows. Default: the length of a window. A longer stride "
    "leaves gaps without a prediction.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Classes per prediction; all if there are fewer.",
)
@click.option("--classes", metavar="NAMES", help='Other class names: "falling,walking,sitting down".')
@click.option(
    "--classes-file",
    type=click.Path(path_type=Path),
    help="File of other class names, one per line.",
)
@click.option("--json", "json_stdout", is_flag=True, help="Print JSON lines, one per video, and no table.")
@click.option("--json-file", type=click.Path(path_type=Path, allow_dash=True), help="File of the JSON lines.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="CSV file with one row per video and window; - for standard output.",
)
@click.option(
    "--overlay",
    type=click.Path(path_type=Path),
    help="Copy of the video (.mp4) with mask and class, without sound. A folder for several videos.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    help="Picture (.png) with frames, mask and classes, one row per video.",
)
@click.option(
    "--max-seconds",
    type=float,
    callback=_positive,
    metavar="SECONDS",
    help="End of a camera or stream. Without it, Ctrl-C ends it.",
)
@click.option("--fps", type=float, callback=_positive, help="Frames per second of folders of frames.")
@click.option("--device", help="cpu, cuda or cuda:1. Default: the GPU if there is one.")
@click.option(
    "--no-calibration", is_flag=True, help="Ignore the calibration that is stored with the checkpoint."
)
@settings
@click.pass_context
def predict(
    context: click.Context,
    /,
    checkpoint: str,
    videos: tuple[str, ...],
    classes: str | None,
    classes_file: Path | None,
    assignments: tuple[str, ...],
    device: str | None,
    no_calibration: bool,
    **options: Any,
) -> None:
    """Predict what happens in VIDEOS with a CHECKPOINT: its folder, or a URI such as hf://user/name.

    VIDEOS are files, folders, quoted patterns ('videos/**/*.mp4'), URIs (s3://bucket/videos), - for a list on
    standard input, a camera (camera:0) or the URL of a stream (rtsp://...).

    The exit status is 1 if a video failed and 2 for wrong arguments.
    """
    plan = PredictionPlan.of(checkpoint, videos, classes, classes_file, options)
    overrides = parse_assignments(assignments)
    check_checkpoint(checkpoint, overrides)
    load_torch()
    from evclip_ray.deploy.recognizer import Recognizer
    from evclip_ray.training.checkpoint import read_record

    with bars(error_console), stage("loading the checkpoint and its networks"):
        recognizer = Recognizer.load(
            checkpoint,
            classes=plan.classes,
            device=device,
            overrides=overrides,
            use_calibration=not no_calibration,
        )
    print_random_weights(read_record(recognizer.checkpoint).get("weights", {}), error_console)
    with _quiet_pipe(context):
        results = _predict_all(plan, recognizer)
    if results.num_failed:
        context.exit(1)


@contextlib.contextmanager
def _quiet_pipe(context: click.Context) -> Iterator[None]:
    """End without a message if the reader of standard output ends, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes standard output once more at the exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        context.exit(1)


def _predict_all(plan: PredictionPlan, recognizer: "Recognizer") -> Results:
    num_classes = len(recognizer.classes)
    context = click.get_current_context()
    is_given = context.get_parameter_source("top_k") == click.core.ParameterSource.COMMANDLINE
    if is_given and plan.top_k > num_classes:
        error_console.print(
            f"--top-k {plan.top_k}: there are only {counted(num_classes, 'class')}, and all of them are "
            f"listed"
        )
    with (
        opened(plan.outputs.json_file, is_stdout=plan.json_stdout) as json_lines,
        opened(plan.outputs.csv_file, is_stdout=plan.csv_stdout) as csv_rows,
    ):
        results = Results(
            json_lines,
            csv_rows,
            top_k=min(plan.top_k, num_classes),
            # Five classes per video do not fit into the rows of a terminal.
            table_k=plan.top_k if is_given else _TABLE_CLASSES,
            has_table=not (plan.json_stdout or plan.csv_stdout),
        )
        if plan.inputs.live is not None:
            _follow(plan.inputs.live, plan, recognizer, results)
        else:
            _predict_files(plan, recognizer, results)
    return results


def _predict_files(plan: PredictionPlan, recognizer: "Recognizer", results: Results) -> None:
    from evclip_ray.data.storage import place
    from evclip_ray.deploy.pictures import Pictures
    from evclip_ray.deploy.predictions import FailedVideo
    from evclip_ray.deploy.sheet import MAX_ROWS
    from evclip_ray.deploy.timeline import timeline

    videos, outputs = plan.inputs.videos, plan.outputs
    pictures = Pictures(
        recognizer,
        outputs.overlays,
        outputs.sheet,
        window=plan.window,
        stride=plan.stride,
        fps=plan.fps,
        on_failure=results.fail,
    )
    interrupted = False
    try:
        with bars(error_console) as steps:
            num_done = 0
            steps("videos", num_done, len(videos))

            def show_time(window: "WindowPrediction") -> None:
                # Of a single long video, the bar alone would stay empty.
                if plan.window is not None:
                    steps.show("videos", num_done, len(videos), f"at {duration(window.end_seconds)}")

            predictions = recognizer.predict_many(
                [place(video) for video in videos],
                top_k=plan.top_k,
                window_seconds=plan.window,
                stride_seconds=plan.stride,
                fps=plan.fps,
                on_window=show_time,
            )
            # Closed at once by an error or Ctrl-C, so that no decoding thread goes on.
            running = cast("Generator[Prediction | FailedVideo, None, None]", predictions)
            with contextlib.closing(running):
                for prediction in running:
                    if isinstance(prediction, FailedVideo):
                        results.fail(prediction)
                    else:
                        segments = timeline(prediction.windows, recognizer.classes, recognizer.calibration)
                        results.add(prediction, segments if plan.window is not None else None)
                        pictures.draw(prediction, segments)
                    num_done += 1
                    steps("videos", num_done, len(videos))
    except KeyboardInterrupt:
        interrupted = True
    pictures.write_sheet()
    results.print_table()
    if pictures.num_left_out:
        error_console.print(f"the sheet shows the first {MAX_ROWS} of {counted(len(videos), 'video')}")
    if interrupted:
        done = results.num_done + results.num_failed
        error_console.print(f"Interrupted after {done} of {counted(len(videos), 'video')}.")
        click.get_current_context().exit(exit_status())
    if results.num_failed:
        error_console.print(f"{counted(results.num_failed, 'failure')} in {counted(len(videos), 'video')}")


def _follow(source: "LiveSource", plan: PredictionPlan, recognizer: "Recognizer", results: Results) -> None:
    """Predict the windows of a camera or stream until it ends, `--max-seconds` or Ctrl-C."""
    from evclip_ray.data.video.opening import VideoError
    from evclip_ray.deploy.cameras import LiveReader, at_rate
    from evclip_ray.deploy.predictions import FailedVideo

    try:
        with LiveReader(source, recognizer.view) as reader:
            windows = recognizer.stream(
                at_rate(reader, reader.fps, max_seconds=plan.max_seconds),
                fps=reader.fps,
                window_seconds=plan.window or _LIVE_WINDOW_SECONDS,
                stride_seconds=plan.stride,
                top_k=plan.top_k,
            )
            with contextlib.suppress(KeyboardInterrupt):
                for window in windows:
                    results.add_window(source.shown, window)
        if reader.num_dropped:
            error_console.print(
                f"{counted(reader.num_dropped, 'frame')} were dropped, because they arrive faster than they "
                "are recognised. Raise --stride."
            )
    except VideoError as error:
        results.fail(FailedVideo(source.shown, error.reason))
