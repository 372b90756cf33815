"""Figures of the report as Altair charts with their data, for notebooks.

Example::

    from evclip_ray.reports.figures import study_figures
    from evclip_ray.results import Study

    study_figures(Study.load("studies/mine"))["slice_optim_lr"]
"""

from typing import TYPE_CHECKING

from evclip_ray.optional import require
from evclip_ray.results import Ladder, Study

if TYPE_CHECKING:
    from evclip_ray.reports.document import Drawing


def study_figures(study: Study) -> "dict[str, Drawing]":
    """Return the figures of a study by name; none before a trial has a score.

    Raises:
        ConfigError: The packages of the extra `report` are not installed.
    """
    require_report_packages()
    from evclip_ray.reports.charts.study import study_charts

    return {chart.name: chart.altair() for chart in study_charts(study)}


def ladder_figures(ladder: Ladder) -> "dict[str, Drawing]":
    """Return the figures over the steps of a ladder by name; none before a step has a score.

    Raises:
        ConfigError: The packages of the extra `report` are not installed.
    """
    require_report_packages()
    from evclip_ray.reports.charts.ladder import ladder_charts

    return {chart.name: chart.altair() for chart in ladder_charts(ladder)}


def require_report_packages() -> None:
    """Check the packages of reports and figures, before a module is imported that needs them.

    Raises:
        ConfigError: A package is not installed. The message names the extra that installs it.
    """
    for module in ("altair", "jinja2", "vl_convert"):
        require(module, extra="report", purpose="a report")
