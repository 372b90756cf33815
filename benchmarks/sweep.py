"""Time of a sweep that shares its frozen computations, relative to the habits of the published code.

EV-CLIP on ViT-B/32 and swin3d_t with random weights, 8 frames, batch 2, 101 class names, UT-Interaction.

- published habits: decode, resize and normalise every frame of every video in every epoch, run the video
  encoder and encode the class text in every step, with autograd's anomaly detection.
- shared: read what was computed once.

Both use the training loop with the same seeds and crops, so their losses must agree. Steps are sampled in
each mode and scaled to the study (8 trials x 20 epochs). Work that is done once is measured completely.

Run: python benchmarks/sweep.py [--prompts context] [--data FOLDER] [--out FOLDER]
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from study_cost import draw

from evclip_ray.class_names import split_words
from evclip_ray.cluster import connect
from evclip_ray.data.video.decode import Fitting
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.models.attention import SelfAttention
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.class_text import class_texts
from evclip_ray.training.build import has_bfloat16
from evclip_ray.training.datamodule import Videos, VideoSet, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.loader import Batches
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import plan_videos

UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction_set1"
CLASSES = 101
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def experiment_of(data: Path, prompts: str, precision: str, **more: Any) -> ExperimentConfig:
    tree = {
        "data": {"manifest": str(data / "manifest.csv"), "root": str(data), "bank": 1},
        "view": {"num_frames": 8},
        "backbone": {"name": "ViT-B-32", "pretrained": "random"},
        "method": {
            "name": "ev_clip",
            "prompts": prompts,
            "normalization": "imagenet",
            "video_encoder": {"name": "swin3d_t", "weights": "random"},
        },
        "optim": {"batch_size": 2, "eval_batch_size": 2, "epochs": 20},
        "precision": precision,
    }
    return ExperimentConfig.load(tree, more)


class EveryFrame(Batches):
    """Batches that decode, resize and normalise every frame of a video each time a view is read."""

    root: Path

    def _read(self, positions: Any, view: int) -> Any:
        videos = [self._decoded(self.root / self.videos.shards.paths[p]) for p in positions]
        return super()._read(positions, view)._replace(frames=torch.from_numpy(np.stack(videos)))

    def _decoded(self, path: Path) -> np.ndarray:
        view = self.videos.shards.view
        fitting = Fitting(view)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            frames = [fitting(frame) for frame in container.decode(stream)]
        normalised = [(frame.astype(np.float32) / 255 - MEAN) / STD for frame in frames]
        assert len(normalised) == len(frames)
        return np.stack([frames[index] for index in frame_indices(len(frames), view=view)])


class Published(Run):
    """The training loop with the habits of the published code."""

    def adopt(self, root: Path) -> "Published":
        """Read the videos under `root`, and the class names as text, in every step."""
        for batches in self.batches.values():
            batches.__class__, batches.root = EveryFrame, root
        names = [split_words(label) for label in self.videos.classes]
        texts = class_texts(names, self.experiment.method.template)
        forward = self.method.forward

        def forward_with_text(batch: VideoBatch) -> MethodOutput:
            self.method.text_features = self.method.frozen.clip.encode_text(texts)
            return forward(batch)

        self.method.forward = forward_with_text
        return self

    def _epoch(self, board: Any) -> Any:
        with published_habits(self.method.frozen.clip):
            return super()._epoch(board)


@contextlib.contextmanager
def published_habits(clip: FrozenCLIP) -> Iterator[None]:
    """Use PyTorch's attention, as the released CLIP does, and anomaly detection."""
    blocks = [block for block in clip.modules() if isinstance(getattr(block, "attn", None), SelfAttention)]
    kept = [block.attn for block in blocks]
    for block in blocks:
        block.attn = _own_attention(block.attn)
    # The released CLIP puts tokens before the batch, which PyTorch's fast path does not support.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        for block, attention in zip(blocks, kept, strict=True):
            block.attn = attention


def _own_attention(attention: SelfAttention) -> torch.nn.MultiheadAttention:
    width = attention.out_proj.in_features
    with torch.device("meta"):
        own = torch.nn.MultiheadAttention(width, attention.num_heads, batch_first=True)
    own.in_proj_weight, own.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
    own.out_proj = attention.out_proj
    return own.eval()


@dataclasses.dataclass
class Mode:
    """Seconds of a mode: once per study, per trial, per training step and per validation video.

    `losses` are the training and validation losses of the sampled epochs.
    """

    once: float
    trial: float
    step: float
    video: float
    losses: list[float]
    reading: float = 0.0

    def study(self, trials: int, epochs: int, steps: int, val_videos: int) -> float:
        """Return the seconds of a whole study."""
        return self.once + trials * (self.trial + epochs * (steps * self.step + val_videos * self.video))


def some(videos: Videos, train: int, val: int) -> Videos:
    """Return the first videos of each split, with the same class list."""
    sets = {}
    for split, count in (("train", train), ("val", val)):
        found = videos.sets[split]
        chosen = np.arange(min(count, len(found)))
        sets[split] = VideoSet(found.shards.subset(chosen), found.labels[chosen])
    return dataclasses.replace(videos, sets=sets)


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of `rounds` epochs of each run. Runs alternate, so the speed affects all."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run._epoch(None))
    return taken


def summed_up(history: list[dict[str, Any]], run: Run, *, once: float, trial: float) -> Mode:
    """Return the best of all epochs except the first, which warms up."""
    later = history[1:]
    video = min(metrics["seconds"] - metrics["train_seconds"] for metrics in later)
    losses = [metrics[name] for metrics in history for name in ("train_loss", "val_loss")]
    step = min(metrics["step_seconds"] for metrics in later)
    return Mode(once, trial, step, video / len(run.videos.sets["val"]), losses)


def start(kind: type[Run], experiment: ExperimentConfig, videos: Videos, folder: Path) -> tuple[Run, float]:
    began = time.perf_counter()
    run = kind.start(experiment, videos, folder=folder, zero_shot=folder.parent / "zero_shot.json")
    return run, time.perf_counter() - began


def reading_share(run: Run) -> float:
    """Return the median seconds that a step waits for its batch: reading, cropping, labels."""
    groups = np.array_split(np.arange(len(run.videos.sets["train"])), run.steps_per_epoch)
    batches = run.batches["train"]
    waited = []
    stream = batches(groups)
    for _ in groups:
        began = time.perf_counter()
        batch = next(stream)
        waited.append(time.perf_counter() - began)
        with torch.no_grad():
            run.method(batch)
    return statistics.median(waited[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=UT_INTERACTION)
    parser.add_argument("--prompts", choices=["both", "mask", "context"], default="both")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--sample", type=int, default=8, help="training videos of a sampled epoch")
    parser.add_argument("--rounds", type=int, default=4, help="sampled epochs of each mode, in turn")
    parser.add_argument("--out", type=Path, default=None, help="folder of sweep_cost.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, connect():
        compare(arguments, Path(folder))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    data, prompts = arguments.data.resolve(), arguments.prompts
    exact = experiment_of(data, prompts, "float32")
    plan = plan_videos(exact, cache=folder / "cache")
    began = time.perf_counter()
    whole = prepare(plan, cache=folder / "cache")
    decoding = time.perf_counter() - began
    names = whole.classes + tuple(f"class number {i}" for i in range(CLASSES - len(whole.classes)))
    whole = dataclasses.replace(whole, classes=names)
    few = some(whole, arguments.sample, arguments.sample // 2)
    steps = -(-len(whole.sets["train"]) // exact.optim.batch_size)
    size = (arguments.trials, arguments.epochs, steps, len(whole.sets["val"]))

    live = experiment_of(data, prompts, "float32", **{"data.features": []})
    runs: dict[str, Run] = {}
    costs: dict[str, dict[str, float]] = {}
    run, built = start(Published, live, few, folder / "published")
    runs["published habits"], costs["published habits"] = run.adopt(data), {"once": 0.0, "trial": built}
    if not has_bfloat16():
        print("this processor has no bfloat16, and emulation is slow, so it is not measured\n")
    for precision in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
        name = f"shared, {precision}"
        experiment = experiment_of(data, prompts, precision)
        began = time.perf_counter()
        prepare_cached([(experiment, whole)], gpus=0)
        once = decoding + time.perf_counter() - began
        # The first trial of a process loads the networks, and the second one does not.
        for folder_name in ("first", precision):
            runs[name], built = start(Run, experiment, few, folder / folder_name)
        costs[name] = {"once": once, "trial": built}
    taken = measure(runs, arguments.rounds)
    modes = {name: summed_up(taken[name], run, **costs[name]) for name, run in runs.items()}
    for name, run in runs.items():
        if name != "published habits":
            modes[name].reading = reading_share(run)
    show(arguments, modes, size)


def show(arguments: argparse.Namespace, modes: dict[str, Mode], size: tuple[int, int, int, int]) -> None:
    trials, epochs, steps, val_videos = size
    slow = modes["published habits"]
    print(
        f"EV-CLIP ({arguments.prompts}), {trials} trials x {epochs} epochs x {steps} steps of 2 videos, "
        f"{val_videos} validation videos, {CLASSES} classes, {torch.get_num_threads()} threads"
    )
    print("the study's seconds are scaled from the best sampled epoch; 'once' is measured completely\n")
    head = ("mode", "once s", "a trial s", "a step s", "a val video s", "waits %", "the study s", "x faster")
    print(f"{head[0]:18s}" + "".join(f"{name:>15s}" for name in head[1:]))
    for name, mode in modes.items():
        total = mode.study(*size)
        values = (
            mode.once,
            mode.trial,
            mode.step,
            mode.video,
            100 * mode.reading / mode.step,
            total,
            slow.study(*size) / total,
        )
        print(f"{name:18s}" + "".join(f"{value:15.4g}" for value in values))
    for name, mode in modes.items():
        gap = max(abs(a - b) for a, b in zip(mode.losses, slow.losses, strict=False))
        print(f"{name:18s} losses of the first epochs differ by at most {gap:.2g}")
    fast = modes["shared, float32"]
    costs = {n: fast.study(n, epochs, steps, val_videos) for n in (1, 2, 4, 8, 16, 32)}
    lower_bound = {n: n * fast.step * steps * epochs for n in costs}
    print("\ntrials" + "".join(f"{n:>9d}" for n in costs) + "   (float32)")
    print("shared" + "".join(f"{seconds:9.0f}" for seconds in costs.values()) + " s")
    print(
        "bound " + "".join(f"{seconds:9.0f}" for seconds in lower_bound.values()) + " s, training steps alone"
    )
    print("ratio " + "".join(f"{costs[n] / lower_bound[n]:9.2f}" for n in costs))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(costs, lower_bound, arguments.out / "sweep_cost.png")
    print("\n" + json.dumps({name: dataclasses.asdict(mode) for name, mode in modes.items()}))


if __name__ == "__main__":
    main()
