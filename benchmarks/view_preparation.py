"""Time saved by preparing only the sampled frames of a view.

Two ways run in turn with the same decoder, one thread and the same resizer: all frames are decoded, resized
and normalised before 8 are picked, or `decode_view` prepares 8 frames. Expectation: identical pixels.

Run: python benchmarks/view_preparation.py [--videos FOLDER] [--repeats N]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from evclip_ray.data.video.decode import Fitting, decode_view, decoder_name, probe
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction_set1"


def normalised(frames: np.ndarray) -> np.ndarray:
    """Normalise (T, H, W, 3) uint8 frames to float32 with CLIP's mean and standard deviation."""
    return (frames.astype(np.float32) / 255 - MEAN) / STD


def every_frame(path: Path, view: ViewConfig) -> np.ndarray:
    fitting = Fitting(view)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        frames = [normalised(fitting(frame)) for frame in container.decode(stream)]
    return np.stack([frames[index] for index in frame_indices(len(frames), view=view)])


def sampled_frames(path: Path, view: ViewConfig) -> np.ndarray:
    return normalised(decode_view(path, view=view))


def compare(path: Path, view: ViewConfig, repeats: int) -> tuple[float, float]:
    """Return the median milliseconds of the two ways."""
    ways: list[Callable[[Path, ViewConfig], Any]] = [every_frame, sampled_frames]
    assert np.array_equal(every_frame(path, view), sampled_frames(path, view)), f"{path}: pixels differ"
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for way, measured in zip(ways, times, strict=True):
            start = time.perf_counter()
            way(path, view)
            measured.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def write_video(
    path: Path, *, key_interval: int, num_frames: int = 180, width: int = 320, height: int = 240
) -> None:
    """Write a moving texture as H.264 with x264's defaults except for the key frame interval."""
    texture = np.random.default_rng(0).integers(0, 256, (height // 8 * 2, width // 8 * 2, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(key_interval)}
        for number in range(num_frames):
            moved = np.roll(texture, (number, 2 * number), axis=(0, 1))[:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def report(name: str, path: Path, view: ViewConfig, repeats: int) -> None:
    info = probe(path)
    slow, fast = compare(path, view, repeats)
    size = f"{info.num_frames} frames, {info.width} x {info.height}, {info.codec}"
    print(f"{name} ({size}): every frame {slow:.1f} ms, sampled {fast:.1f} ms, {slow / fast:.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=UT_INTERACTION, help="folder with more videos")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    view = ViewConfig()
    print(f"{decoder_name()}; {view.num_frames} frames, short side {view.shortest}; pixels are identical")
    with tempfile.TemporaryDirectory() as folder:
        for key_interval in (12, 30, 250):
            path = Path(folder) / f"{key_interval}.mp4"
            write_video(path, key_interval=key_interval)
            report(f"a key frame every {key_interval}", path, view, arguments.repeats)
    for path in sorted(arguments.videos.glob("*/*.avi"))[::12]:
        report(f"{path.parent.name}/{path.name}", path, view, arguments.repeats)


if __name__ == "__main__":
    main()
