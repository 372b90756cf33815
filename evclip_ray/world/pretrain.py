"""Pretraining of the small towers: `python -m evclip_ray.world.pretrain`.

It draws the corpora, trains the networks of `pretraining.recipe`, and writes their weights, `log.jsonl` and
`words.json` to --out. The same command continues after an interruption. On a GPU the networks train at the
same time as processes of their own; on a CPU one after another. `python -m
evclip_ray.world.pretraining.install OUT` makes package data of the result.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from evclip_ray.artifacts import write_text
from evclip_ray.world.pretraining.corpus import draw_corpus, drawing_pool
from evclip_ray.world.pretraining.recipe import CORPORA, SCORE_SETS, TRAININGS, Recipe

_DRAW = "draw"
"""Stage that draws the corpora and the sets of the scores."""
_LATE = 3
"""Exit code if --max-minutes ended the command before all work was done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 3 if --max-minutes ended it early."""
    options = _parser().parse_args(arguments)
    work = options.work or options.out / "work"
    for folder in (options.out, work):
        folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.max_minutes
    recipe = Recipe(options.scale)
    if options.stages != [_DRAW] and len(options.stages) == 1:
        return 0 if train(options.stages[0], recipe, options, work, deadline) else _LATE
    return 0 if _run_all(recipe, options, work, deadline) else _LATE


def train(name: str, recipe: Recipe, options: argparse.Namespace, work: Path, deadline: float) -> bool:
    """Train one network in this process. Returns whether it is complete."""
    # torch takes seconds to import, and the processes that draw scenes import this module without needing it.
    import torch

    from evclip_ray.world.pretraining.clip_task import ClipTask
    from evclip_ray.world.pretraining.loop import Log, Task, fit
    from evclip_ray.world.pretraining.scores import ScoreSet
    from evclip_ray.world.pretraining.video_task import VideoTask

    training = recipe.training(name)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        torch.set_num_threads(options.jobs)
    # The shapes of all steps are equal, so that the fastest convolutions are searched once.
    torch.backends.cudnn.benchmark = True
    # No global state is left behind, and the initial weights do not depend on what ran before.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)
        corpus = work / training.corpus
        task: Task
        if training.corpus == "stills":
            task = ClipTask(name, training, corpus, device)
        else:
            task = VideoTask(name, training, corpus, device)
    sets = [
        ScoreSet.open(set_name, recipe.corpus(set_name), _set_folder(work, set_name))
        for set_name in SCORE_SETS
    ]
    return fit(
        task,
        sets=sets,
        checkpoint=work / f"{name}.pt",
        weights=options.out / f"{name}.safetensors",
        log=Log(options.out / "log.jsonl", name),
        deadline=deadline,
    )


def _run_all(recipe: Recipe, options: argparse.Namespace, work: Path, deadline: float) -> bool:
    from evclip_ray.world.pretraining.words import caption_words

    write_text(options.out / "words.json", json.dumps(caption_words()) + "\n")
    parallel = options.parallel or (len(TRAININGS) if _has_gpu(options.device) else 1)
    trainings = [name for name in options.stages if name != _DRAW]
    needed = {TRAININGS[name].corpus for name in trainings} or set(CORPORA)
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    is_drawn = True
    pool = drawing_pool(options.jobs)
    try:
        for corpus in [*SCORE_SETS, *(name for name in CORPORA if name in needed)]:
            if _DRAW in options.stages and not _draw(corpus, recipe, options, work, pool, deadline):
                is_drawn = False
                break
            for name in (name for name in trainings if TRAININGS[name].corpus == corpus):
                while len(running) - len(codes) >= parallel:
                    _wait_for_one(running, codes)
                running[name] = _start(name, options, work, deadline)
        # Trainings have the same deadline and end by themselves, with a checkpoint.
        while len(codes) < len(running):
            _wait_for_one(running, codes)
    finally:
        pool.shutdown(cancel_futures=True)
        for process in running.values():
            if process.poll() is None:
                process.terminate()
    failed = [name for name, code in codes.items() if code not in (0, _LATE)]
    if failed:
        raise SystemExit(f"{', '.join(failed)}: the training failed, see the messages above")
    return is_drawn and all(code == 0 for code in codes.values())


def _wait_for_one(running: dict[str, subprocess.Popen[bytes]], codes: dict[str, int]) -> None:
    while True:
        for name, process in running.items():
            code = process.poll()
            if name not in codes and code is not None:
                codes[name] = code
                return
        time.sleep(0.2)


def _start(name: str, options: argparse.Namespace, work: Path, deadline: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "evclip_ray.world.pretrain", "--stages", name]
    command += ["--out", str(options.out), "--work", str(work), "--scale", str(options.scale)]
    command += ["--jobs", str(options.jobs)]
    command += ["--max-minutes", str(max(0.0, deadline - time.monotonic()) / 60)]
    command += ["--device", options.device] if options.device else []
    return subprocess.Popen(command)


def _draw(
    name: str, recipe: Recipe, options: argparse.Namespace, work: Path, pool: Executor, deadline: float
) -> bool:
    from tqdm import tqdm

    started = time.monotonic()
    corpus = recipe.corpus(name)
    with tqdm(desc=name, disable=None, unit="part") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        complete = draw_corpus(corpus, _set_folder(work, name), pool=pool, deadline=deadline, progress=show)
    line = {
        "name": name,
        "count": corpus.count,
        "complete": complete,
        "seconds": round(time.monotonic() - started, 1),
        "processes": options.jobs,
    }
    with (options.out / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)
    return complete


def _set_folder(work: Path, name: str) -> Path:
    return work / name.replace(" ", "_")


def _has_gpu(device: str | None) -> bool:
    if device:
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m evclip_ray.world.pretrain", description=__doc__)
    add = parser.add_argument
    stages = [_DRAW, *TRAININGS]
    add("--out", type=Path, required=True, help="folder of the weights and the log")
    add("--work", type=Path, help="folder of the corpora (18 GB) and checkpoints; OUT/work if not given")
    add("--stages", nargs="+", choices=stages, default=stages, metavar="STAGE", help=", ".join(stages))
    add("--device", help="cpu or cuda; cuda if there is a GPU")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes or threads on the CPU")
    add("--parallel", type=int, help="networks that train at once: all on a GPU, 1 on a CPU")
    add("--scale", type=float, default=1.0, help="factor of all numbers of scenes, for trials")
    add("--max-minutes", type=float, default=float("inf"), help="stop after this time; continue later")
    return parser


if __name__ == "__main__":
    sys.exit(main())
