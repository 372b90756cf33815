"""Arguments of `evclip-ray predict`, checked before PyTorch is imported."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.formatting import printable

if TYPE_CHECKING:
    from evclip_ray.deploy.inputs import Inputs
    from evclip_ray.deploy.outputs import Outputs

_STDOUT = "-"


class WrongUsage(click.ClickException):
    """Arguments that cannot be used, in one line; exit status 2, as of click's own usage errors."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class PredictionPlan:
    """Checked arguments of `predict`.

    Attributes:
        inputs: The videos.
        outputs: Files to write.
        classes: Other class names; None for those of the checkpoint.
        json_stdout: Whether JSON lines go to standard output.
        csv_stdout: Whether the CSV table goes to standard output.
        window: Seconds of a window; None for the view of the training.
        stride: Seconds between windows; None for a window.
        top_k: Classes per prediction.
        is_top_k_given: Whether the command line has `--top-k`.
        max_seconds: End of a live source; None for none.
        fps: Frames per second of folders of frames.
    """

    inputs: "Inputs"
    outputs: "Outputs"
    classes: tuple[str, ...] | None
    json_stdout: bool
    csv_stdout: bool
    window: float | None
    stride: float | None
    top_k: int
    max_seconds: float | None
    fps: float | None

    @classmethod
    def of(
        cls,
        checkpoint: str,
        videos: tuple[str, ...],
        classes: str | None,
        classes_file: Path | None,
        options: dict[str, Any],
    ) -> "PredictionPlan":
        """Check the arguments, without PyTorch.

        Raises:
            WrongUsage: An argument cannot be used.
        """
        from evclip_ray.data.storage import is_uri
        from evclip_ray.deploy.inputs import InputError, class_names, find_inputs

        try:
            if not is_uri(checkpoint) and not Path(checkpoint).is_dir():
                raise InputError(f"{checkpoint}: must be the folder of a checkpoint; there is no such folder")
            names = class_names(classes, classes_file)
            inputs = find_inputs(videos, _standard_input)
            return cls._with_outputs(inputs, names, options)
        except InputError as error:
            raise WrongUsage(printable(str(error))) from None

    @classmethod
    def _with_outputs(
        cls, inputs: "Inputs", classes: tuple[str, ...] | None, options: dict[str, Any]
    ) -> "PredictionPlan":
        from evclip_ray.deploy.inputs import InputError
        from evclip_ray.deploy.outputs import Outputs, check_outputs, overlay_files

        window, stride = options["window"], options["stride"]
        if inputs.live is None and options["max_seconds"] is not None:
            raise InputError("--max-seconds is for a camera or stream, and the inputs are files")
        if inputs.live is not None and (options["overlay"] or options["sheet"]):
            raise InputError("--overlay and --sheet need files, and the input is a camera or stream")
        if inputs.live is None and window is None and stride is not None:
            raise InputError("--stride needs the length of a window; add --window SECONDS")
        json_stdout = options["json_stdout"] or str(options["json_file"]) == _STDOUT
        csv_stdout = str(options["csv_file"]) == _STDOUT
        if json_stdout and csv_stdout:
            raise InputError("JSON lines and CSV cannot share standard output; name a file for one of them")
        if options["json_stdout"] and options["json_file"] is not None:
            raise InputError("--json prints to standard output; leave it out with --json-file")
        overlay = options["overlay"]
        outputs = Outputs(
            json_file=None if json_stdout else options["json_file"],
            csv_file=None if csv_stdout else options["csv_file"],
            sheet=options["sheet"],
            overlays={} if overlay is None else overlay_files(overlay, inputs.videos),
        )
        check_outputs(outputs, inputs.videos)
        return cls(
            inputs,
            outputs,
            classes,
            json_stdout=json_stdout,
            csv_stdout=csv_stdout,
            window=window,
            stride=stride,
            top_k=options["top_k"],
            max_seconds=options["max_seconds"],
            fps=options["fps"],
        )


def _standard_input() -> list[str]:
    """Return the lines of standard input. Names of files need not be UTF-8."""
    return [os.fsdecode(line) for line in sys.stdin.buffer.read().split(b"\n")]
