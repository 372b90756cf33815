"""Building of a report from a folder of results.

Existing results are read. Predictions and masks of the best trial are computed once and stored in the folder
of CSV files next to the report, where the next report of the same checkpoint finds them. By default that is
in the study's own folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from evclip_ray.artifacts import LEDGER, read_json
from evclip_ray.evaluation.mask_views import add_masks, save_best_masks
from evclip_ray.reports.document import Report
from evclip_ray.reports.render.write import check_writable, data_folder
from evclip_ray.reports.sections.domain_shift import shift_section
from evclip_ray.reports.sections.evaluation import Evaluation, anchor
from evclip_ray.reports.sections.ladder import ladder_report
from evclip_ray.reports.sections.study import study_report
from evclip_ray.results import Ladder, Study, open_results
from evclip_ray.tuning.study_folder import name_recovery

REPORT = "report.html"
BEST = "best-val"


@dataclasses.dataclass(frozen=True)
class Composed:
    """Report, its file, and notes on missing parts."""

    report: Report
    out: Path
    notes: list[str]


def compose(
    results: Path,
    *,
    out: Path | None,
    evaluations: Sequence[Path],
    shifts: Sequence[Path],
    videos: int,
    seed: int,
    cache: Path,
) -> Composed:
    """Build the report of a study or a ladder.

    Args:
        results: Folder of the study or the ladder.
        out: HTML file; by default `report.html` in the folder.
        evaluations: Folders of evaluations; by default those of the best checkpoint.
        shifts: Folders written by `evclip-ray shift`.
        videos: Number of videos with masks.
        seed: Seed of the random choice among them.
        cache: Folder of decoded videos.

    Raises:
        ArtifactError: The folder is neither a study nor a ladder, or `out` cannot be written.
    """
    study_or_ladder = open_results(results)
    out = out or results / REPORT
    check_writable(out)
    scorer = _BestTrialScorer(
        data_folder(out), data_folder(results / REPORT), videos=videos, seed=seed, cache=cache
    )
    more = [shift_section(folder) for folder in shifts]
    if isinstance(study_or_ladder, Ladder):
        by_step = {name: scorer.best_of(study, name) for name, study in study_or_ladder.steps.items()}
        report = ladder_report(
            study_or_ladder, evaluations=by_step, more=more, notes=scorer.notes, cache=cache
        )
        return Composed(report, out, scorer.notes)
    eval_sets = scorer.best_of(study_or_ladder)
    for folder in evaluations or _evaluations_of(study_or_ladder):
        eval_sets += scorer.existing(folder)
    report = study_report(study_or_ladder, evaluations=eval_sets, more=more, notes=scorer.notes, cache=cache)
    return Composed(report, out, scorer.notes)


def _evaluations_of(study: Study) -> list[Path]:
    """Return the evaluations of the best checkpoint that `evaluate` wrote next to it."""
    ledgers = [*study.root.glob(f"best-*/{LEDGER}"), *study.root.glob(f"best-*/*/{LEDGER}")]
    of_evaluations = [path for path in ledgers if read_json(path).get("stage") == "evaluation"]
    return sorted({study.root / path.relative_to(study.root).parts[0] for path in of_evaluations})


class _BestTrialScorer:
    """Evaluations with masks, computed into `folder` unless they exist. `notes` collects failures.

    `default_folder` is the folder of reports at the default location, which may contain them already.
    """

    def __init__(self, folder: Path, default_folder: Path, *, videos: int, seed: int, cache: Path) -> None:
        self.folder, self.default_folder = folder, default_folder
        self.videos, self.seed, self.cache = videos, seed, cache
        self.notes: list[str] = []

    def best_of(self, study: Study, step: str = "") -> list[Evaluation]:
        """Evaluate the best trial on its validation videos. `step` names the step of a ladder."""
        if study.best is None:
            return []
        name = f"{BEST}-{anchor(step)}" if step else BEST
        out = self.folder / name
        try:
            with name_recovery(study.root / "best"):
                save_best_masks(study.root, out, max_videos=self.videos, seed=self.seed)
        except (ValueError, OSError) as problem:
            saved = [path for path in (out, self.default_folder / name) if path.is_dir()]
            fallback = "an earlier result is shown" if saved else "there is no earlier result"
            trial = f"The best trial of {step}" if step else "The best trial"
            self.notes.append(f"{trial} could not be scored on its validation videos; {fallback}: {problem}")
            return Evaluation.load_all(saved[0], step) if saved else []
        return Evaluation.load_all(out, step)

    def existing(self, folder: Path) -> list[Evaluation]:
        """Load an existing evaluation and add masks to it."""
        eval_sets = Evaluation.load_all(folder)
        for eval_set in eval_sets:
            try:
                add_masks(eval_set.root, cache=self.cache, max_videos=self.videos, seed=self.seed)
            except (ValueError, OSError) as problem:
                self.notes.append(f"No masks of {folder.name}: {problem}")
        return eval_sets
