"""A length of time as an option: `90m`, `2h30m`, `1d`."""

import re

import click

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class Duration(click.ParamType[float]):
    """Days, hours, minutes and seconds, each once and in this order, as seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a usage error for anything else."""
        if isinstance(value, float):
            return value
        parts = "".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _SECONDS)
        found = re.fullmatch(parts, value.strip().lower())
        amounts = [float(amount or 0) for amount in found.groups()] if found else []
        seconds = sum(amount * size for amount, size in zip(amounts, _SECONDS.values(), strict=False))
        if seconds <= 0:
            self.fail(f"must be a time like 90m, 2h30m or 1d, got {value!r}", param, ctx)
        return seconds


DURATION = Duration()
