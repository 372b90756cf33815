"""Commands that a reader of a report may run next, and links to the files of its best trial."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import LEDGER, cache_folder
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.formatting import shell
from evclip_ray.records import TrialState
from evclip_ray.reports.document import Command, Link
from evclip_ray.results import Study
from evclip_ray.training.checkpoint import ADAPTER
from evclip_ray.training.experiment import DataConfig
from evclip_ray.training.video_lists import resolve_manifest
from evclip_ray.tuning.study_folder import COMMAND

_PLACEHOLDER = "my.mp4"
_CANDIDATES = 20
"""Number of listed videos that are looked for."""


@dataclasses.dataclass(frozen=True)
class Videos:
    """Known facts about the videos of a study.

    Attributes:
        has_test: Whether there are test videos.
        example: Path of an existing video, or a placeholder.
    """

    has_test: bool = False
    example: str = _PLACEHOLDER


def cache_words(cache: Path | None) -> list[str]:
    """Return the option `--cache` of a command that goes on with a cache; empty for the default one."""
    return [] if cache is None or cache_folder(cache) == cache_folder() else ["--cache", str(cache)]


def next_commands(
    study: Study, videos: Videos, *, is_tested: bool, cache: Path | None = None
) -> list[Command]:
    """Return the commands that apply to a study.

    Args:
        study: Results.
        videos: Known facts about its videos.
        is_tested: Whether the best checkpoint was evaluated on the test split.
        cache: Folder of its decoded videos; None for the default.
    """
    is_begun = not study.trials.empty
    commands = resume(study.ledger, is_begun and not study.trials["state"].map(_has_ended).all())
    # Absolute, so that a command can be copied into any terminal of this machine.
    root = study.root.absolute()
    best = root / "best"
    if not (best / ADAPTER).is_file():
        return commands
    if videos.has_test and not is_tested:
        line = shell("evclip-ray", "evaluate", best, "--split", "test", *cache_words(cache))
        commands.append(Command("Evaluate the best trial on the test split, once", line))
    return [
        *commands,
        Command("Recognise videos", shell("evclip-ray", "predict", best, videos.example)),
        Command("Export to ONNX", shell("evclip-ray", "export", best, "--out", root / "best.onnx")),
    ]


def resume(ledger: Mapping[str, Any], is_unfinished: bool) -> list[Command]:
    """Return the command that resumes a study or a ladder; empty if nothing is left or it is not recorded."""
    if not is_unfinished or COMMAND not in ledger:
        return []
    return [Command("Resume, in the folder where it was started", str(ledger[COMMAND]))]


def links(study: Study, prefix: str = "") -> list[Link]:
    """Return the links to the files of a study that exist, relative to the folder of the results.

    Args:
        study: Results.
        prefix: Folder of the study in the results, with a slash at its end; empty for the results of one
            study.
    """
    files = {
        "Settings of the best trial (best.yaml)": "best.yaml",
        "Its checkpoint (best/)": "best/",
        "All trials (leaderboard.csv)": "leaderboard.csv",
    }
    return [Link(title, prefix + path) for title, path in files.items() if (study.root / path).exists()]


def videos_of(record: Mapping[str, Any], cache: Path) -> Videos:
    """Return the known facts about the videos of a checkpoint. Nothing is drawn or decoded.

    Args:
        record: `config.json` of the checkpoint; may be empty.
        cache: Folder of the data sets that are made on demand.
    """
    try:
        data = DataConfig.load(record["experiment"]["data"])
        if data.world is not None:
            has_test = data.world.test_videos > 0
            manifest = _drawn(data, cache)
            return Videos(has_test, _PLACEHOLDER if manifest is None else _example(manifest))
        if data.manifest is None:
            return Videos()
        manifest = resolve_manifest(data, cache=cache)
    # The list is gone or was changed, so that nothing can be evaluated on it.
    except (KeyError, ValueError, OSError):
        return Videos()
    splits = manifest.splits()
    return Videos("test" in splits if splits else data.test_fraction > 0, _example(manifest))


def _drawn(data: DataConfig, cache: Path) -> Manifest | None:
    """Return the list of a data set of the small world; None if it is not in the cache."""
    from evclip_ray.world.data_set import world_folder

    assert data.world is not None
    is_there = (world_folder(data.world, cache) / LEDGER).is_file()
    return resolve_manifest(data, cache=cache) if is_there else None


def _example(manifest: Manifest) -> str:
    """Return the path of a listed video on this machine, one of the test split if there is one."""
    rows = [*map(int, manifest.in_split("test")), *range(len(manifest))]
    paths = manifest.column("path")
    for row in itertools.islice(rows, _CANDIDATES):
        place = manifest.locate(paths[row])
        if isinstance(place, Path) and place.exists():
            return str(place.absolute())
    return _PLACEHOLDER


def _has_ended(state: str) -> bool:
    return TrialState(state).has_ended
