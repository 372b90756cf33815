"""Speed and memory of recognition: throughput, latency by part and form, and memory over many or long videos.

- `throughput`: `predict_many` on videos against the bare model on the same frames in memory, in turn on
  groups of videos. A quotient of 1 means that decoding costs nothing. Processor time is printed too, because
  other jobs on the machine disturb it less.
- `latency`: median and 95th percentile of one video by part and by form of the model, after warm-up.
- `memory`: resident memory while many videos, or one long video, are predicted.

Unless --checkpoint is given, untrained prompts on towers with random weights are measured, which does not
change the arithmetic.

Run: python benchmarks/predict.py [throughput | latency | memory] [--videos MANIFEST] [--group N]
"""

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from evclip_ray.artifacts import provenance
from evclip_ray.config import parse_assignments
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.deploy.predictions import FailedVideo
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.models.batch import VideoBatch
from evclip_ray.profiling.synthetic_step import synchronize
from evclip_ray.training.build import build_method, weights_of
from evclip_ray.training.checkpoint import save_checkpoint
from evclip_ray.training.experiment import ExperimentConfig

UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction_set1"
RANDOM = {"backbone.pretrained": "random", "method.video_encoder.weights": "random"}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads[-1])
    with contextlib.ExitStack() as stack:
        recognizer = Recognizer.load(
            arguments.checkpoint or _untrained(Path(stack.enter_context(_folder())), arguments),
            device=arguments.device,
        )
        if arguments.command == "throughput":
            throughput(recognizer, arguments)
        elif arguments.command == "latency":
            # Only here: it imports the export with its optional libraries.
            from predict_forms import latency

            latency(recognizer, _paths(arguments)[0], arguments)
        else:
            memory(recognizer, arguments, Path(stack.enter_context(_folder())))


def _folder() -> Any:
    return tempfile.TemporaryDirectory(prefix="evclip-predict-")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = ("throughput", "latency", "memory")
    parser.add_argument("command", nargs="?", choices=commands, default=commands[0])
    parser.add_argument("--checkpoint", type=Path, help="folder; by default untrained prompts")
    parser.add_argument("--videos", type=Path, default=UT_INTERACTION / "manifest.csv", help="manifest")
    parser.add_argument("--backbone", default="ViT-B-32")
    parser.add_argument("--encoder", default="swin3d_t")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="other settings")
    parser.add_argument("--classes", type=int, default=6, help="number of classes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="of the networks")
    parser.add_argument("--batch", type=int, default=4, help="videos per forward pass")
    parser.add_argument("--group", type=int, default=12, help="videos of a pair of throughput")
    parser.add_argument("--repeats", type=int, default=20, help="repeats of latency")
    parser.add_argument(
        "--forms", nargs="+", default=["eager"], help="eager, compiled, onnx-float32, onnx-int8"
    )
    parser.add_argument("--count", type=int, default=1000, help="videos of memory")
    parser.add_argument("--hours", type=float, help="memory: predict one video of this length in windows")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of a window")
    return parser.parse_args()


def _untrained(folder: Path, arguments: argparse.Namespace) -> Path:
    settings = {
        "data.manifest": str(arguments.videos),
        "backbone.name": arguments.backbone,
        "method.name": "ev_clip",
        "method.video_encoder.name": arguments.encoder,
        **RANDOM,
        **parse_assignments(tuple(arguments.set)),
    }
    experiment = ExperimentConfig.load({}, settings)
    classes = [f"action {number}" for number in range(arguments.classes)]
    method = build_method(experiment, classes, device=torch.device("cpu"))
    record = {
        "experiment": experiment.model_dump(mode="json"),
        "classes": classes,
        "weights": weights_of(method.frozen),
        "provenance": provenance(),
    }
    save_checkpoint(folder / "best", method, record)
    return folder / "best"


def _paths(arguments: argparse.Namespace) -> list[Path]:
    manifest = read_manifest(arguments.videos)
    return [Path(str(manifest.root)) / path for path in manifest.column("path")]


def throughput(recognizer: Recognizer, arguments: argparse.Namespace) -> None:
    """Print videos per second of `predict_many` and of the bare model on frames in memory."""
    paths, batch = _paths(arguments), arguments.batch
    frames = [recognizer.decode(path) for path in paths]

    @torch.no_grad()
    def bare(group: slice) -> None:
        for start in range(group.start, min(group.stop, len(frames)), batch):
            views = to_device(frames[start : min(start + batch, group.stop)], recognizer.device)
            output = recognizer.method(VideoBatch(crop_batch(views, size=recognizer.image_size)))
            output.logits.cpu()

    def predicted(group: slice) -> None:
        results = list(recognizer.predict_many(paths[group], batch_size=batch))
        assert not any(isinstance(result, FailedVideo) for result in results)

    recognizer.logits(frames[:batch])
    times: dict[str, list[tuple[float, float]]] = {"bare model": [], "predict": []}
    for number, start in enumerate(range(0, len(paths), arguments.group)):
        ways: list[tuple[str, Callable[[slice], None]]] = [("bare model", bare), ("predict", predicted)]
        # The order alternates, so that a machine whose speed changes favours neither.
        for name, run in ways[:: 1 if number % 2 == 0 else -1]:
            started, used = time.perf_counter(), time.process_time()
            run(slice(start, start + arguments.group))
            times[name].append((time.perf_counter() - started, time.process_time() - used))
    for column, kind in enumerate(("wall", "processor")):
        quotients = [
            alone[column] / whole[column]
            for alone, whole in zip(times["bare model"], times["predict"], strict=True)
        ]
        rates = {name: len(paths) / sum(row[column] for row in rows) for name, rows in times.items()}
        row = {
            "time": kind,
            "videos/s": {name: round(rate, 3) for name, rate in rates.items()},
            "quotient": round(rates["predict"] / rates["bare model"], 3),
            "median of pairs": round(statistics.median(quotients), 3),
            "pairs": [round(quotient, 3) for quotient in quotients],
        }
        print(json.dumps(row))


def memory(recognizer: Recognizer, arguments: argparse.Namespace, folder: Path) -> None:
    """Print the resident memory every tenth of the way."""
    if arguments.hours is None:
        paths = itertools.islice(itertools.cycle(_paths(arguments)), arguments.count)
        total, results = arguments.count, recognizer.predict_many(paths, batch_size=arguments.batch)
        for number, _ in enumerate(results, 1):
            if number % max(total // 10, 1) == 0:
                print(json.dumps({"videos": number, "resident MiB": _resident()}), flush=True)
        return
    started = time.perf_counter()
    path = write_long(folder / "long.mp4", hours=arguments.hours)
    print(json.dumps({"made in s": round(time.perf_counter() - started), "bytes": path.stat().st_size}))
    started, total = time.perf_counter(), int(arguments.hours * 3600 / arguments.window)
    windows = recognizer.predict_windows(path, window_seconds=arguments.window)
    for number, window in enumerate(windows, 1):
        if number in (1, 10) or number % max(total // 10, 1) == 0:
            row = {"windows": number, "until s": window.end_seconds, "resident MiB": _resident()}
            print(json.dumps(row | {"after s": round(time.perf_counter() - started)}), flush=True)


def write_long(path: Path, *, hours: float, seconds: int = 60) -> Path:
    """Write a long H.264 video of 320 x 240 pixels at 25 frames per second.

    A minute of moving stripes is encoded. Its packets are repeated with later times.
    """
    minute, width, height = path.with_name("minute.mp4"), 320, 240
    with av.open(str(minute), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "50", "bf": "0"}
        columns = np.arange(width)
        for number in range(25 * seconds):
            row = (128 + 127 * np.sin((columns + 3 * number) / 20)).astype(np.uint8)
            image = np.broadcast_to(row[None, :, None], (height, width, 3))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image))))
        output.mux(stream.encode())
    with av.open(str(minute)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        ticks = round(seconds / source.streams.video[0].time_base)
        for repeat in range(round(3600 * hours / seconds)):
            source.seek(0)
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.pts, packet.dts = packet.pts + repeat * ticks, packet.dts + repeat * ticks
                    packet.stream = stream
                    output.mux(packet)
    return path


def percentiles(run: Callable[[], Any], *, repeats: int, device: torch.device) -> tuple[float, float]:
    """Return median and 95th percentile of the time of `run` in milliseconds, after two warm-up runs."""
    times = list(itertools.islice(_times(run, device), 2 + repeats))[2:]
    return statistics.median(times), float(np.percentile(times, 95))


def _times(run: Callable[[], Any], device: torch.device) -> Iterator[float]:
    while True:
        started = time.perf_counter()
        run()
        synchronize(device)
        yield 1000 * (time.perf_counter() - started)


def _resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) // 1024


if __name__ == "__main__":
    main()
