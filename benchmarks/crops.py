"""Time to cut and resize views into their batch.

First: cached views, compared with a plain implementation, which cuts, converts, resizes with antialiasing and
flips each video separately. Expectation: faster than plain, and the same views within 2e-5.
Second: the centre crop of an evaluation from one tensor of a batch, compared with one tensor for each video,
as where videos differ in size. Expectation: about as long, and the same views.
All ways run in turn on one thread.

Run: python benchmarks/crops.py [--repeats 15]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from evclip_ray.data.transforms import AugmentConfig, _draw_boxes, _Draws, cached_views, crop_batch

AUGMENT = AugmentConfig()


def plain_views(frames: Tensor, size: int) -> Tensor:
    """Convert (B, T, H, W, 3) uint8 to (B, T, 3, size, size) float32, one view after the other."""
    views = []
    height, width = frames.shape[2:4]
    for seed, video in enumerate(frames):
        draws = _Draws(torch.Generator().manual_seed(seed), 0, 1, 1)
        ((top, left, across),) = _draw_boxes(draws, torch.tensor([[height, width]]), AUGMENT).tolist()
        planes = video[:, top : top + across, left : left + across].permute(0, 3, 1, 2).float() / 255
        resized = functional.interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
        views.append(resized.flip(-1) if draws.uniform() < AUGMENT.flip else resized)
    return torch.stack(views).clamp(0, 1)


def our_views(frames: Tensor, size: int) -> Tensor:
    return cached_views(frames, size=size, augment=AUGMENT, seeds=range(len(frames)))


def compare_batches(repeats: int) -> None:
    """Time the fixed view of one tensor and of a list of videos, and of frames that keep their aspect."""
    for (height, width), size, batch in (((72, 128), 64, 32), ((256, 455), 224, 32), ((384, 683), 336, 8)):
        frames = torch.randint(0, 256, (batch, 8, height, width, 3), dtype=torch.uint8)
        middle = frames[:, :, :, (width - height) // 2 :][:, :, :, :height].contiguous()
        ways: dict[str, Callable[[], Tensor]] = {
            "square": lambda middle=middle, size=size: crop_batch(middle, size=size),
            "batch": lambda frames=frames, size=size: crop_batch(frames, size=size),
            "list": lambda frames=frames, size=size: crop_batch(list(frames), size=size),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        views: dict[str, Tensor] = {}
        for _ in range(repeats):
            for way, cut in ways.items():
                began = time.perf_counter()
                views[way] = cut()
                taken[way].append(time.perf_counter() - began)
        assert torch.equal(views["list"], views["batch"])
        square, one, each = (statistics.median(taken[way]) for way in ways)
        print(
            f"{height} x {width} -> {size}, {batch} videos: one by one {each / one:.2f} times the batch, "
            f"the batch {one / square:.2f} times the stored square",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for side, size, batch in ((72, 64, 16), (256, 224, 16), (256, 336, 8)):
        shape = (batch, 8, side, side, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        ways: dict[str, Callable[[Tensor, int], Tensor]] = {"plain": plain_views, "ours": our_views}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, Tensor] = {}
        for _ in range(arguments.repeats):
            for way, cut in ways.items():
                began = time.perf_counter()
                found[way] = cut(frames, size)
                taken[way].append(1e3 * (time.perf_counter() - began) / batch)
        apart = (found["ours"] - found["plain"]).abs().max().item()
        assert apart < 2e-5, apart
        plain, ours = (statistics.median(taken[way]) for way in ("plain", "ours"))
        print(
            f"{side} -> {size}: plain {plain:.2f} ms per video of 8 frames, ours {ours:.2f}: "
            f"{plain / ours:.2f} times faster, {apart:.1e} apart",
            flush=True,
        )
    compare_batches(arguments.repeats)


if __name__ == "__main__":
    main()
