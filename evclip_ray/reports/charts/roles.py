"""Series with the same role in all charts, each with its colour and its entry in the legend."""

import json

import altair as alt

ROLES = ("after", "best", "before")
"""Roles: adapted CLIP or a trial; the best one; CLIP without adaptation, or before calibration."""

_SHAPES = ("circle", "stroke", "diamond")


class Roles:
    """Names of the series of one chart, by role.

    Example::

        roles = Roles(after="adapted", before="zero-shot CLIP")
        alt.layer(roles.points(base.mark_point(), "before"), roles.lines(base.mark_line(), "after"))
    """

    def __init__(self, **names: str) -> None:
        # A role without a series keeps its place, because the colours belong to places.
        self._names = {role: names.get(role, role) for role in ROLES}
        self._legend = alt.Legend(title=None, values=list(names.values()), symbolOpacity=1)

    def lines(self, chart: alt.Chart, role: str) -> alt.Chart:
        """Return lines, bars or rules in the colour of a role."""
        # Vega-Lite has no name for such a range, and no chart has a diverging scale. The theme sets it.
        scale = alt.Scale(domain=list(self._names.values()), range="diverging")
        # `json.dumps` gives a literal of the expression language.
        coloured: alt.Chart = chart.transform_calculate(series=json.dumps(self._names[role])).encode(
            color=alt.Color("series:N", scale=scale, legend=self._legend)
        )
        return coloured

    def points(self, chart: alt.Chart, role: str) -> alt.Chart:
        """Return points in the colour and with the shape of a role."""
        scale = alt.Scale(domain=list(self._names.values()), range=list(_SHAPES))
        shaped: alt.Chart = self.lines(chart, role).encode(
            shape=alt.Shape("series:N", scale=scale, legend=self._legend)
        )
        return shaped
