"""Summary of a chaos test: one row per kind of fault, as a table and as JSON."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from .rounds import Episode

HEADER = ("fault", "times", "exit status", "most frequent line of the next command", "outcome")


def rows(episodes: Sequence[Episode], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per kind of fault. An event is `recovered` if it and its episode have no problem."""
    bad = {episode.number for episode in episodes if episode.problems}
    events = [event for episode in episodes for event in episode.events]
    table = []
    for kind in kinds:
        same = [event for event in events if event.fault == kind]
        recovered = sum(not event.problems and event.episode not in bad for event in same)
        statuses = collections.Counter(event.status for event in same)
        lines = collections.Counter(
            line for event in same for line in (event.next_said or event.said)[:3]
        ).most_common(1)
        table.append(
            {
                "fault": kind,
                "times": len(same),
                "exit_statuses": {str(status): count for status, count in sorted(statuses.items())},
                "line": lines[0][0] if lines else "",
                "recovered": recovered,
            }
        )
    return table


def as_markdown(table: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    for row in table:
        statuses = ", ".join(f"{status}: {count}" for status, count in row["exit_statuses"].items())
        line = row["line"].replace("|", "\\|")[:160]
        outcome = f"{row['recovered']} of {row['times']} recovered" if row["times"] else "not drawn"
        lines.append(f"| {row['fault']} | {row['times']} | {statuses} | {line and f'`{line}`'} | {outcome} |")
    return "\n".join(lines)


def failures(episodes: Sequence[Episode]) -> list[str]:
    """Return one line per problem, with its episode and call."""
    listed = []
    for episode in episodes:
        listed += [f"episode {episode.number}: {problem}" for problem in episode.problems]
        for event in episode.events:
            where = f"episode {episode.number}, call {event.call}, {event.fault} ({event.detail})"
            listed += [f"{where}: {problem}" for problem in event.problems]
    return listed


def as_json(episodes: Sequence[Episode], table: Sequence[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """Return everything for the JSON file."""
    return {
        **facts,
        "calls": sum(episode.calls for episode in episodes),
        "summary": list(table),
        "failures": failures(episodes),
        "episodes": [dataclasses.asdict(episode) for episode in episodes],
    }
