"""Time of one EV-CLIP training step, and the extra time of the habits of the published code.

Weights are random, which does not change the arithmetic. All variants of the step run in turn, round after
round, so changes of the machine's speed affect all of them. Ratios are taken within a round.

Run: python benchmarks/step.py --rounds 5
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.clip import load_clip
from evclip_ray.models.methods.ev_clip import EVCLIP, EVCLIPConfig
from evclip_ray.models.video_encoder import load_video_encoder
from evclip_ray.profiling.memory import peak_bytes
from evclip_ray.profiling.synthetic_step import synchronize, timed
from evclip_ray.training.build import has_bfloat16

PUBLISHED = "published habits"


@dataclasses.dataclass
class Bench:
    """A method with its optimizer and one batch that every step uses."""

    method: EVCLIP
    optimizer: torch.optim.Optimizer
    texts: list[str]
    batch: VideoBatch
    video_map: Tensor
    labels: Tensor

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.labels.device

    def step(self, *, map_cached: bool, bfloat16: bool) -> None:
        """Run forward, backward and update."""
        pixels = self.batch.pixels
        batch = VideoBatch(pixels, video_map=self.video_map) if map_cached else self.batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            loss = sum(self.method.losses(self.method(batch), self.labels).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def published_step(self) -> None:
        """Run a step in float32 that encodes class text and video map again, with anomaly detection."""
        with published_habits():
            self.method.text_features = self.method.frozen.clip.encode_text(self.texts)
            self.step(map_cached=False, bfloat16=False)


@contextlib.contextmanager
def published_habits() -> Iterator[None]:
    # The released CLIP puts tokens before the batch, which PyTorch's fast attention does not support.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.autograd.set_detect_anomaly(True):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def build(arguments: argparse.Namespace) -> Bench:
    device = arguments.device
    clip = load_clip(arguments.backbone, "random", device=device)
    encoder = load_video_encoder(arguments.encoder, "random", device=device)
    names = [f"class number {index}" for index in range(arguments.classes)]
    config = EVCLIPConfig(normalization="imagenet")
    size = encoder.image_size
    method = config.build(
        Frozen(clip, encoder), class_names=names, num_frames=arguments.frames, image_size=size
    ).to(device)
    pixels = torch.rand(arguments.batch, arguments.frames, 3, size, size, device=device)
    with torch.no_grad():
        video_map = encoder(encoder.prepare(pixels))
    return Bench(
        method=method,
        optimizer=torch.optim.AdamW(method.parameters(), lr=4e-4, weight_decay=0.05),
        texts=[config.template.replace("{}", name) for name in names],
        batch=VideoBatch(pixels),
        video_map=video_map,
        labels=torch.arange(arguments.batch, device=device) % arguments.classes,
    )


def ways(bench: Bench) -> dict[str, Callable[[], None]]:
    found = {
        PUBLISHED: bench.published_step,
        "text cached": lambda: bench.step(map_cached=False, bfloat16=False),
        "text cached, bf16": lambda: bench.step(map_cached=False, bfloat16=True),
        "text and map cached": lambda: bench.step(map_cached=True, bfloat16=False),
        "text and map cached, bf16": lambda: bench.step(map_cached=True, bfloat16=True),
    }
    if bench.device.type == "cpu" and not has_bfloat16():
        return {name: run for name, run in found.items() if not name.endswith("bf16")}
    return found


def parts(bench: Bench) -> dict[str, Callable[[], object]]:
    clip, encoder = bench.method.frozen.clip, bench.method.frozen.video_encoder
    method, pixels = bench.method, bench.batch.pixels
    images = clip.prepare(pixels)
    masked = images.clone().requires_grad_(True)
    return {
        "video encoder": lambda: encoder(encoder.prepare(pixels)),
        "prompt generators": lambda: (
            method.mask_generator(bench.video_map),
            method.context_generator(bench.video_map),
        ),
        "CLIP, frames": lambda: clip.encode_frames(masked),
        "CLIP, frames and back to the pixels": lambda: clip.encode_frames(masked).sum().backward(),
        "CLIP, class text": lambda: clip.encode_text(bench.texts),
    }


def rounds(runs: dict[str, Callable[[], object]], device: torch.device, count: int) -> dict[str, list[float]]:
    """Return the seconds of every variant per round, without the first round, which warms up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(count + 1):
        for name, run in runs.items():
            synchronize(device)
            _, elapsed = timed(run, device)
            if index:
                taken[name].append(elapsed)
    return taken


def peak_mb(run: Callable[[], object], device: torch.device) -> float:
    """Return the peak memory of `run` above the memory before it, in MB; NaN if it is not measurable."""
    found = peak_bytes(run, device)
    return float("nan") if found is None else found[1] / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-32")
    parser.add_argument("--encoder", default="swin3d_t")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    bench = build(arguments)
    if arguments.device == "cpu" and not has_bfloat16():
        print("this processor has no bfloat16, and emulation is slow, so it is not measured\n")
    steps = rounds(ways(bench), bench.device, arguments.rounds)
    pieces = rounds(parts(bench), bench.device, max(1, arguments.rounds // 2))
    memory = {name: peak_mb(run, bench.device) for name, run in ways(bench).items()}
    bench.method.frozen.clip.model.visual.set_grad_checkpointing(True)
    recomputed = peak_mb(ways(bench)["text and map cached"], bench.device)
    print(f"{'step':28s} {'best s':>8s} {'median s':>9s} {'x faster':>9s} {'peak MB':>8s}")
    for name, taken in steps.items():
        ratio = statistics.median(slow / fast for slow, fast in zip(steps[PUBLISHED], taken, strict=True))
        print(
            f"{name:28s} {min(taken):8.3f} {statistics.median(taken):9.3f} {ratio:9.2f} {memory[name]:8.0f}"
        )
    print(f"peak MB of 'text and map cached' with activation checkpointing: {recomputed:.0f}")
    print(f"\n{'part (float32)':36s} {'best s':>8s}")
    for name, taken in pieces.items():
        print(f"{name:36s} {min(taken):8.3f}")
    print(json.dumps({"arguments": vars(arguments), "threads": torch.get_num_threads(), "steps": steps}))


if __name__ == "__main__":
    main()
