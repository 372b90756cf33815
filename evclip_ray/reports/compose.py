"""From a folder to a report: what is there is read, what models must say is computed once and kept.

Everything that is computed goes to the folder of CSV files beside the report, where the next report of the
same checkpoint finds it; by default that is in the study's own folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from evclip_ray.deploy.mask_views import look_at_best, look_at_evaluation
from evclip_ray.reports.document import Report
from evclip_ray.reports.evaluations import Evaluation
from evclip_ray.reports.results import Ladder, Study, open_results
from evclip_ray.reports.shift_section import shift_section
from evclip_ray.reports.study_report import study_report
from evclip_ray.reports.write import check_writable, data_folder

REPORT = "report.html"
BEST = "best-val"


@dataclasses.dataclass(frozen=True)
class Composed:
    """A report, where it is to go, and what could not be had."""

    report: Report
    out: Path
    notes: list[str]


def compose(
    results: Path, *, out: Path | None, evaluations: Sequence[Path], shifts: Sequence[Path],
    videos: int, seed: int, cache: Path,
) -> Composed:  # fmt: skip
    """The report of a study or a ladder.

    `out`: the HTML file; `videos`: how many have their masks shown, `seed` draws some of them.

    Raises:
        ArtifactError: neither a study nor a ladder, or `out` cannot be written to.
    """
    found = open_results(results)
    out = out or results / REPORT
    check_writable(out)
    looked = _Look(data_folder(out), videos=videos, seed=seed, cache=cache)
    more = [shift_section(folder) for folder in shifts]
    if isinstance(found, Ladder):
        raise NotImplementedError
    sides = looked.at_best(found) + [
        side for folder in evaluations or _beside(found) for side in looked.at(folder)
    ]
    report = study_report(found, evaluations=sides, more=more, notes=looked.notes)
    return Composed(report, out, looked.notes)


def _beside(study: Study) -> list[Path]:
    """Evaluations of the best checkpoint that `evaluate` wrote beside it."""
    return sorted(path for path in study.root.glob("best-*") if path.is_dir())


class _Look:
    """Evaluations with their masks: read where they were saved, else computed; `notes` say what failed."""

    def __init__(self, folder: Path, *, videos: int, seed: int, cache: Path) -> None:
        self.folder, self.videos, self.seed, self.cache = folder, videos, seed, cache
        self.notes: list[str] = []

    def at_best(self, study: Study) -> list[Evaluation]:
        """The best trial on its validation videos."""
        if study.best is None:
            return []
        out = self.folder / BEST
        try:
            look_at_best(study.root, out, most=self.videos, seed=self.seed)
        except (ValueError, OSError) as problem:
            saved = [path for path in (out, data_folder(study.root / REPORT) / BEST) if path.is_dir()]
            kept = "what was saved of it is shown" if saved else "nothing was saved of it"
            self.notes.append(
                f"The best trial was not scored again on its validation videos, {kept}: {problem}"
            )
            return Evaluation.load_all(saved[0]) if saved else []
        return Evaluation.load_all(out)

    def at(self, folder: Path) -> list[Evaluation]:
        """An evaluation that was made before."""
        sides = Evaluation.load_all(folder)
        for side in sides:
            try:
                look_at_evaluation(side.root, cache=self.cache, most=self.videos, seed=self.seed)
            except (ValueError, OSError) as problem:
                self.notes.append(f"No masks of {folder.name}: {problem}")
        return sides
