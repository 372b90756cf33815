"""Package data from the result of a pretraining: `python -m evclip_ray.world.pretraining.install OUT`.

Copies the weights, the words and the log, computes the scores from the copied files on newly drawn scenes,
and writes the digests and the model card. `notes.json` in OUT, a list of sentences, adds remarks on this
pretraining to the card.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors

from evclip_ray.artifacts import ArtifactError, provenance, read_json, write_json, write_text
from evclip_ray.models import world_weights
from evclip_ray.models.world_weights import CARD, HEADS, WORDS
from evclip_ray.world.pretraining.card import render
from evclip_ray.world.pretraining.corpus import draw_corpus, drawing_pool
from evclip_ray.world.pretraining.recipe import SCORE_SETS, TRAININGS, Recipe
from evclip_ray.world.pretraining.scores import ScoreSet, intervals
from evclip_ray.world.pretraining.words import caption_words

MAX_BYTES = 10_000_000
LOG = "log.jsonl"
NOTES = "notes.json"
ROWS = list(TRAININGS)
DOCS_PAGE = Path(__file__).parents[3] / "docs" / "world" / "model_card.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m evclip_ray.world.pretraining.install", description=__doc__)
    parser.add_argument("out", type=Path, help="folder that the pretraining wrote, or a tar archive of it")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--jobs", type=int, default=1, help="processes that draw the scenes of the scores")
    parser.add_argument("--work", type=Path, help="folder of the drawn scenes, kept; else a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work, out = options.work or Path(temporary), options.out
        if out.is_file():
            with tarfile.open(out) as archive:
                archive.extractall(Path(temporary) / "out", filter="data")
            out = Path(temporary) / "out"
        install(out, world_weights.WEIGHTS_FOLDER, rows=options.rows, work=work, jobs=options.jobs)
    write_text(DOCS_PAGE, render(read_json(world_weights.WEIGHTS_FOLDER / CARD)))
    return 0


def install(
    out: Path,
    folder: Path,
    *,
    rows: Sequence[str],
    work: Path,
    jobs: int = 1,
    recipe: Recipe | None = None,
) -> None:
    """Write the package data.

    Args:
        out: Result of the pretraining.
        folder: Folder of the package data, which must be that of the loaders.
        rows: Networks to ship.
        work: Folder of the scenes of the scores.
        jobs: Processes that draw them.
        recipe: Recipe of the pretraining; the full one by default.

    Raises:
        ArtifactError: A network is missing or incomplete, the words differ from those of the captions, or the
            files are larger than `MAX_BYTES`.
    """
    recipe = recipe or Recipe()
    files = [*(f"{row}.safetensors" for row in rows), WORDS, LOG]
    progress = {row: _progress(out / f"{row}.safetensors") for row in rows}
    if tuple(read_json(out / WORDS)) != caption_words():
        raise ArtifactError(f"{out / WORDS}: the captions have other words now; run the pretraining again")
    size = sum((out / name).stat().st_size for name in files)
    if size > MAX_BYTES:
        raise ArtifactError(f"{out}: the files have {size:,} bytes; at most {MAX_BYTES:,} may be shipped")
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        shutil.copyfile(out / name, folder / name)
    card: dict[str, Any] = {
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        "bytes": size,
        "date": datetime.date.today().isoformat(),
        "recipe": recipe.describe(),
        "notes": read_json(out / NOTES) if (out / NOTES).exists() else [],
        **provenance(),
        "drawing": [line for line in _lines(out / LOG) if "count" in line],
        "networks": progress,
    }
    # The loaders read the digests from the card, so it is written once before the scores.
    write_json(folder / CARD, card)
    sets = score_sets(work, jobs=jobs, recipe=recipe)
    for row in rows:
        card["networks"][row]["scores"] = shipped_scores(row, sets)
    write_json(folder / CARD, card)


def score_sets(
    work: Path, *, jobs: int, recipe: Recipe, seed_shift: int = 0, count: int | None = None
) -> list[ScoreSet]:
    """Draw the sets of the scores.

    Args:
        work: Folder of the scenes.
        jobs: Processes.
        recipe: Recipe with the sets.
        seed_shift: Added to the seeds, for scenes that no other score used.
        count: Number of videos of each set; that of the recipe by default.
    """
    sets = []
    with drawing_pool(jobs) as pool:
        for name in SCORE_SETS:
            corpus = recipe.corpus(name)
            corpus = dataclasses.replace(corpus, seed=corpus.seed + seed_shift, count=count or corpus.count)
            folder = work / name.replace(" ", "_")
            draw_corpus(corpus, folder, pool=pool)
            sets.append(ScoreSet.open(name, corpus, folder))
    return sets


def shipped_scores(row: str, sets: Sequence[ScoreSet]) -> dict[str, dict[str, list[float]]]:
    """Return the scores of a shipped network, each as value, lower and upper bound.

    Args:
        row: Name of the row of BACKBONES or VIDEO_ENCODERS.
        sets: Sets of the scores.
    """
    from evclip_ray.world.pretraining.shipped import score_row

    return {held.name: intervals(score_row(row, held), len(held.arrays.labels)) for held in sets}


def _progress(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ArtifactError(f"{path}: missing; run the pretraining, or name the rows to ship with --rows")
    with safetensors.safe_open(path, framework="pt") as opened:
        metadata: Mapping[str, str] = opened.metadata()
        names = [name for name in opened.keys() if not name.startswith(HEADS)]  # noqa: SIM118
        parameters = sum(opened.get_tensor(name).numel() for name in names)
    if metadata["step"] != metadata["steps"]:
        raise ArtifactError(
            f"{path}: ended after step {metadata['step']} of {metadata['steps']}; run the pretraining again "
            "to continue"
        )
    return {"parameters": parameters, "bytes": path.stat().st_size, **metadata}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
