"""Headline of a study's report: the answer to its question, in a sentence."""

from collections.abc import Sequence

from evclip_ray.reports.document import Headline
from evclip_ray.reports.sections.evaluation import Evaluation
from evclip_ray.results import Study


def study_headline(study: Study, evaluations: Sequence[Evaluation]) -> Headline:
    """Return what the records of a study say."""
    best = study.best
    if best is None:
        return Headline("No trial has finished an epoch yet, so there is no result.")
    return Headline(f"{best['val_top1']:.2f} on validation.")
