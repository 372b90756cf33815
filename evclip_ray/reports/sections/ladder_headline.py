"""Headline of a ladder's report: the best step, and whether accuracy rises over the steps."""

from evclip_ray.reports.document import Headline
from evclip_ray.results import Ladder


def ladder_headline(ladder: Ladder) -> Headline:
    """Return what the records of a ladder say."""
    best = ladder.best
    if best is None:
        return Headline("No step has a trial with a finished epoch yet, so there is no result.")
    return Headline(f"The best step is {best['rung']}: {best['val_top1']:.2f} on validation.")
