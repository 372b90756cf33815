"""Commands that a reader of a study's report may run next, and links to its files."""

from collections.abc import Sequence

from evclip_ray.formatting import shell
from evclip_ray.reports.document import Command, Link
from evclip_ray.reports.sections.evaluation import Evaluation
from evclip_ray.results import Study


def next_commands(study: Study, evaluations: Sequence[Evaluation]) -> list[Command]:
    """Return the commands that apply to a study."""
    best = study.root.absolute() / "best"
    if not study.best_record:
        return []
    return [
        Command("Recognise your own videos", shell("evclip-ray", "predict", best, "my.mp4")),
    ]


def links(study: Study) -> list[Link]:
    """Return the links to the files of a study that exist."""
    files = {
        "settings of the best trial (best.yaml)": "best.yaml",
        "folder of the checkpoint": "best/",
        "leaderboard.csv": "leaderboard.csv",
    }
    return [Link(title, target) for title, target in files.items() if (study.root / target).exists()]
