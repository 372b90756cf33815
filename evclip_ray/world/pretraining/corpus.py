"""Stills and clips of the pretraining, drawn by several processes into memory maps on disk.

A corpus is drawn in parts. A part that is complete is marked, so the same command continues after a crash.
Every scene has a seed of its own and does not depend on the number of processes.
"""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError, digest, file_digest, read_json, write_json
from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.pretraining.recipe import CELL, SIZE, Corpus

_PART_FRAMES = 1024
"""Frames per part: about 4 seconds of one core."""

_WORLD = Path(__file__).parents[1]
_DRAWING = ("actions", "backgrounds", "captions", "domains", "figure", "scenes")
"""Modules that decide how a scene looks and what its labels are."""

_LABELS = 6
_IDENTITY = "corpus.json"


@dataclasses.dataclass(frozen=True)
class CorpusArrays:
    """Memory maps of a corpus of N stills or clips.

    Attributes:
        frames: (N, T, S, S, 3) uint8.
        labels: (N, 6) int16: index into ACTIONS, then the five `scene_keys`.
        shares: (N, T / 2, h, w) uint8: share of each cell of 2 x 16 x 16 pixels that the acting figure
            covers, times 255. Empty for stills.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.int16]
    shares: NDArray[np.uint8]


def action_names(held_out: bool) -> tuple[str, ...]:
    """Return the names of the held-out actions, or of all others, which the pretraining sees."""
    return tuple(name for name, action in ACTIONS.items() if action.held_out == held_out)


def draw_corpus(
    corpus: Corpus,
    folder: Path,
    *,
    pool: Executor,
    deadline: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Draw the parts of a corpus that are missing.

    Args:
        corpus: What to draw.
        folder: Folder of the memory maps.
        pool: Processes that draw, see `drawing_pool`.
        deadline: Time of `time.monotonic` after which no part is waited for.
        progress: Called with the number of complete parts and of all parts.

    Returns:
        Whether the corpus is complete.

    Raises:
        ArtifactError: The folder holds another corpus.
    """
    done = _create(corpus, folder)
    missing = np.flatnonzero(done == 0).tolist()
    if not missing:
        return True
    futures = [pool.submit(_draw_part, corpus, folder, part) for part in missing]
    try:
        for future in as_completed(futures, timeout=_seconds_left(deadline)):
            future.result()
            if progress is not None:
                progress(int(done.sum()), len(done))
    except TimeoutError:
        for future in futures:
            future.cancel()
    return bool(done.all())


def drawing_pool(jobs: int) -> ProcessPoolExecutor:
    """Return a pool of `jobs` processes that draw scenes."""
    # A forked process would inherit the locks of torch's threads.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def open_corpus(folder: Path) -> CorpusArrays:
    """Open the memory maps of a corpus.

    Raises:
        ArtifactError: The corpus is incomplete.
    """
    path = folder / "done.npy"
    if not path.exists() or not np.load(path).all():
        raise ArtifactError(f"{folder}: the corpus is incomplete; run the pretraining again to draw the rest")
    return CorpusArrays(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _names()))


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(CorpusArrays)]


def _seconds_left(deadline: float) -> float | None:
    return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())


def _per_part(corpus: Corpus) -> int:
    return max(1, _PART_FRAMES // corpus.num_frames)


def _create(corpus: Corpus, folder: Path) -> NDArray[np.uint8]:
    # A corpus that was drawn by other code would mix two kinds of scenes.
    sources = [file_digest(_WORLD / f"{name}.py") for name in _DRAWING]
    identity = digest({**dataclasses.asdict(corpus), "sources": sources})
    path = folder / _IDENTITY
    if path.exists():
        if read_json(path)["identity"] != identity:
            raise ArtifactError(f"{folder}: holds another corpus; remove the folder or give another --work")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        is_clip = corpus.num_frames > 1
        cells = (corpus.num_frames // 2, SIZE // CELL, SIZE // CELL) if is_clip else (0,)
        parts = -(-corpus.count // _per_part(corpus))
        for name, shape, dtype in (
            ("frames", (corpus.count, corpus.num_frames, SIZE, SIZE, 3), np.uint8),
            ("labels", (corpus.count, _LABELS), np.int16),
            ("shares", (corpus.count, *cells), np.uint8),
            ("done", (parts,), np.uint8),
        ):
            open_memmap(folder / f"{name}.npy", "w+", dtype, shape).flush()
        # Last, so that a folder with this file has all maps.
        write_json(path, {"identity": identity, "corpus": dataclasses.asdict(corpus)})
    done: NDArray[np.uint8] = np.load(folder / "done.npy", mmap_mode="r")
    return done


def _draw_part(corpus: Corpus, folder: Path, part: int) -> None:
    import cv2

    from evclip_ray.world.captions import scene_keys
    from evclip_ray.world.scenes import draw_scene, draw_still

    # The processes share the cores already.
    cv2.setNumThreads(1)
    maps: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _names()}
    names, order = action_names(corpus.held_out), list(ACTIONS)
    first = part * _per_part(corpus)
    for index in range(first, min(first + _per_part(corpus), corpus.count)):
        # Domains take turns, then actions, so all are equally frequent. Training draws in random order.
        domain = corpus.domains[index % len(corpus.domains)]
        action = names[index // len(corpus.domains) % len(names)]
        seed = (corpus.seed, index)
        dial = float(np.random.Generator(np.random.PCG64(seed)).uniform(*corpus.dials))
        if corpus.num_frames == 1:
            scene = draw_still(action, seed=seed, domain=domain, dial=dial, size=SIZE)
        else:
            scene = draw_scene(
                action, seed=seed, domain=domain, dial=dial, size=SIZE, num_frames=corpus.num_frames
            )
            maps["shares"][index] = cell_shares(scene.actor_mask)
        maps["frames"][index] = scene.frames
        maps["labels"][index] = [order.index(action), *scene_keys([action], [scene.look])[0]]
    for array in maps.values():
        array.flush()
    done = np.load(folder / "done.npy", mmap_mode="r+")
    done[part] = 1
    done.flush()


def cell_shares(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of a mask (T, S, S) over each cell of the video map, (T / 2, h, w)."""
    frames, side = mask.shape[0], mask.shape[1] // CELL
    cells = mask.reshape(frames // 2, 2, side, CELL, side, CELL).mean((1, 3, 5))
    result: NDArray[np.uint8] = np.round(cells).astype(np.uint8)
    return result
