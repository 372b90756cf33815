"""Commands that a command prints at its end. Each names only what exists."""

from pathlib import Path

from evclip_ray.api import cache_folder
from evclip_ray.formatting import shell


def score_command(checkpoint: Path, cache: Path | None) -> str | None:
    """Return the command that scores a checkpoint on its test videos; None if there are none.

    Args:
        checkpoint: Folder of the checkpoint.
        cache: Folder of the small world's videos, as `--cache` gives it.
    """
    from evclip_ray.reports.sections.next_steps import cache_words, videos_of
    from evclip_ray.training.checkpoint import CONFIG, read_record

    if not (checkpoint / CONFIG).is_file():
        return None
    if not videos_of(read_record(checkpoint), cache_folder(cache)).has_test:
        return None
    return shell("evclip-ray", "evaluate", checkpoint, "--split", "test", *cache_words(cache))


def study_hints(root: Path, cache: Path | None) -> list[tuple[str, str]]:
    """Return what can be done with the results of a study, as pairs of a purpose and a file or a command.

    Args:
        root: Folder of the study.
        cache: Folder of the small world's videos, as `--cache` gives it.
    """
    from evclip_ray.reports.sections.next_steps import cache_words

    cached = cache_words(cache)
    table, best = root / "leaderboard.csv", root / "best.yaml"
    hints = [
        ("leaderboard", str(table) if table.is_file() else None),
        ("learning curves", shell("tensorboard", "--logdir", root)),
        ("train the best", shell("evclip-ray", "train", best, *cached) if best.is_file() else None),
        ("score the best", score_command(root / "best", cache)),
        ("report", shell("evclip-ray", "report", root, *cached)),
    ]
    return [(purpose, text) for purpose, text in hints if text is not None]
