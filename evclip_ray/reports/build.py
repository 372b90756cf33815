"""From a folder to a report: what is there is read, what models must say is computed once and kept.

Everything that is computed goes to the folder of CSV files beside the report, where the next report of the
same checkpoint finds it; by default that is in the study's own folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from evclip_ray.artifacts import LEDGER, read_json
from evclip_ray.evaluation.mask_views import save_best_masks, add_masks
from evclip_ray.reports.document import Report
from evclip_ray.reports.render.write import check_writable, data_folder
from evclip_ray.reports.sections.domain_shift import shift_section
from evclip_ray.reports.sections.evaluation import Evaluation, anchor
from evclip_ray.reports.sections.ladder import ladder_report
from evclip_ray.reports.sections.study import study_report
from evclip_ray.results import Ladder, Study, open_results

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
    looked = _Look(data_folder(out), data_folder(results / REPORT), videos=videos, seed=seed, cache=cache)
    more = [shift_section(folder) for folder in shifts]
    if isinstance(found, Ladder):
        rungs = {name: looked.at_best(study, name) for name, study in found.rungs.items()}
        report = ladder_report(found, evaluations=rungs, more=more, notes=looked.notes)
        return Composed(report, out, looked.notes)
    sides = looked.at_best(found)
    sides += [side for folder in evaluations or _beside(found) for side in looked.at(folder)]
    report = study_report(found, evaluations=sides, more=more, notes=looked.notes)
    return Composed(report, out, looked.notes)


def _beside(study: Study) -> list[Path]:
    """Evaluations of the best checkpoint that `evaluate` wrote beside it."""
    ledgers = [*study.root.glob(f"best-*/{LEDGER}"), *study.root.glob(f"best-*/*/{LEDGER}")]
    of_evaluations = [path for path in ledgers if read_json(path).get("stage") == "evaluation"]
    return sorted({study.root / path.relative_to(study.root).parts[0] for path in of_evaluations})


class _Look:
    """Evaluations with their masks, computed into `folder` unless they are there; `notes` say what failed.

    `kept`: where the reports that are written to the usual place keep theirs.
    """

    def __init__(self, folder: Path, kept: Path, *, videos: int, seed: int, cache: Path) -> None:
        self.folder, self.kept, self.videos, self.seed, self.cache = folder, kept, videos, seed, cache
        self.notes: list[str] = []

    def at_best(self, study: Study, rung: str = "") -> list[Evaluation]:
        """The best trial on its validation videos; `rung`: whose study it is, if it is one's."""
        if study.best is None:
            return []
        name = f"{BEST}-{anchor(rung)}" if rung else BEST
        out = self.folder / name
        try:
            save_best_masks(study.root, out, most=self.videos, seed=self.seed)
        except (ValueError, OSError) as problem:
            saved = [path for path in (out, self.kept / name) if path.is_dir()]
            shown = "what was saved of it is shown" if saved else "nothing was saved of it"
            what = f"The best trial of {rung}" if rung else "The best trial"
            self.notes.append(f"{what} was not scored again on its validation videos, {shown}: {problem}")
            return Evaluation.load_all(saved[0], rung) if saved else []
        return Evaluation.load_all(out, rung)

    def at(self, folder: Path) -> list[Evaluation]:
        """An evaluation that was made before."""
        sides = Evaluation.load_all(folder)
        for side in sides:
            try:
                add_masks(side.root, cache=self.cache, most=self.videos, seed=self.seed)
            except (ValueError, OSError) as problem:
                self.notes.append(f"No masks of {folder.name}: {problem}")
        return sides
