"""Terminal output: consoles, tables and warnings."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evclip_ray.formatting import counted, printable, short, unique_tail, with_interval
from evclip_ray.records import (
    METRICS,
    LeaderboardRow,
    TrialState,
    choice_lines,
    random_weights_warning,
    scored_on,
    selection_ratio,
)


class PlainConsole(Console):
    """Console that prints every text as it is: brackets and `:smile:` have no meaning.

    Paths, labels, settings and errors may contain anything. The whole package prints through this class, so
    that no place has to remember to escape a text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text for the terminal, with control characters escaped; also the cells of tables."""
        return super().render_str(printable(text), **options)


console = PlainConsole()
if not console.is_terminal:
    # A file or a pipe has no width, and rich would cut tables at 80 columns.
    console = PlainConsole(width=140)


error_console = PlainConsole(stderr=True)
"""Standard error, for commands whose results on standard output are read by programs."""
if not error_console.is_terminal:
    error_console = PlainConsole(stderr=True, width=140)


_SCORE_WIDTH, _SETTING_WIDTH = 48, 8
"""Columns of text of the scores in the leaderboard, and of one setting at least."""


def leaderboard_table(
    rows: Sequence[LeaderboardRow], selections: Collection[Mapping[str, Any]] = ()
) -> Table:
    """Return the ten best trials as a table: validation top-1 with its 95 % interval, and the settings.

    Args:
        rows: Rows of the leaderboard, best first.
        selections: Selection of each variant of the videos, from the ledger of the study.
    """
    title = f"Leaderboard: {scored_on(selections)}"
    if len(ratios := {selection_ratio(selection) for selection in selections}) == 1:
        title += f", {ratios.pop()}"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    searched = sorted({path for row in rows for path in row.overrides})
    has_seeds = any(row.point_seeds > 1 for row in rows)
    top1, loss = METRICS["val_top1"].label, METRICS["val_loss"].label
    for name in ("trial", f"{top1} (95 %)", *(["mean of seeds"] if has_seeds else []), loss, "epochs"):
        table.add_column(name, no_wrap=True)
    names = {path: unique_tail(path, searched) for path in searched}
    # In a narrow terminal the settings are one column that is wrapped, so that no number is cut off.
    width = sum(max(len(names[path]), _SETTING_WIDTH) + 2 for path in searched)
    as_one = _SCORE_WIDTH + width > console.width
    for name in ["settings"] if as_one and searched else names.values():
        table.add_column(name, overflow="fold")
    for row in rows[:10]:
        # A complete trial ran all its epochs; of any other the state explains their number.
        state = "" if row.state in (TrialState.COMPLETE, TrialState.FAILED) else f" {row.state}"
        table.add_row(
            row.trial.removeprefix("trial-"),
            _top1(row),
            *([_mean_of_seeds(row)] if has_seeds else []),
            f"{row.val_loss:.2f}" if math.isfinite(row.val_loss) else "-",
            f"{row.epochs}{state}",
            *_settings_cells(row, names, as_one),
        )
    return table


def _settings_cells(row: LeaderboardRow, names: Mapping[str, str], as_one: bool) -> list[str]:
    if not as_one:
        return [short(row.overrides.get(path, "-")) for path in names]
    given = [f"{name} {short(row.overrides[path])}" for path, name in names.items() if path in row.overrides]
    return [", ".join(given)] if names else []


def best_of_each_table(rows: Sequence[LeaderboardRow], path: str) -> Table:
    """Return the best trial of each value of a setting, with the number of its trials.

    Args:
        rows: Rows of the leaderboard, best first.
        path: Dotted path of the setting.
    """
    # It imports NumPy, which `--help` does not need.
    from evclip_ray.tuning.leaderboard import best_of_each

    table = Table(title=f"Best of each {path}", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in (path.rpartition(".")[2], f"{METRICS['val_top1'].label} (95 %)", "trial", "trials"):
        table.add_column(name, no_wrap=True)
    for row in best_of_each(rows, path):
        scored = with_interval(row["val_top1"], row["val_top1_low"], row["val_top1_high"], missing="-")
        failed = f", {row['failed']} failed" if row["failed"] else ""
        trial = row["best_trial"].removeprefix("trial-")
        table.add_row(short(row[path]), scored, trial, f"{row['trials']}{failed}")
    return table


def _top1(row: LeaderboardRow) -> str:
    if row.state == TrialState.FAILED:
        return "failed"
    # A trial without a finished epoch has no score, which must not look like a score of 0.
    scored = with_interval(row.val_top1, row.val_top1_low, row.val_top1_high)
    return scored if row.best_epoch else "-"


def _mean_of_seeds(row: LeaderboardRow) -> str:
    if row.point_seeds < 2:
        return "-"
    mean = with_interval(row.point_top1, row.point_top1_low, row.point_top1_high)
    return f"{mean}, {counted(row.point_seeds, 'seed')}"


def print_choice(rows: Sequence[LeaderboardRow]) -> None:
    """Print the score of the best trial, and its score corrected for the choice."""
    lines = choice_lines(rows[0].columns())
    width = max(map(len, lines), default=0)
    for name, score in lines.items():
        console.print(f"{name:<{width}}  {score}", soft_wrap=True)


def zero_shot_line(rows: Sequence[LeaderboardRow]) -> str:
    """Return the top-1 of zero-shot CLIP, one number for each set of conditions among the trials."""
    scores = sorted({row.zero_shot_top1 for row in rows if not math.isnan(row.zero_shot_top1)})
    listed = ", ".join(f"{score:.3f}" for score in scores) or "not scored"
    return f"zero-shot CLIP on the same views: top-1 {listed}"


def print_random_weights(weights: Mapping[str, str], where: Console | None = None) -> None:
    """Print a warning if any of `weights`, {part: origin}, are random.

    Args:
        weights: Origin of the weights of each part.
        where: Console of the warning; by default standard output.
    """
    if warning := random_weights_warning(weights):
        (where or console).print(warning, soft_wrap=True)


def rows_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows with equal keys as a table: one column per key, numbers aligned right."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name, value in rows[0].items():
        justify: Literal["left", "right"] = "left" if isinstance(value, str) else "right"
        table.add_column(name.replace("_", " "), justify=justify)
    for row in rows:
        table.add_row(*("-" if value is None else short(value) for value in row.values()))
    return table
