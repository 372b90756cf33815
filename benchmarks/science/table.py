"""The page of the claims: `table.md` and its figures, from the records alone."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import write_text

from .experiments import ALL_SHOTS, DIAL_DOMAINS, DIALS, SIZE_DOMAINS, SIZES, of_size, trained
from .results import Results, Value
from .settings import DOMAINS, METHODS, world_set
from .verdicts import FACTOR_OF_DIAL, Row, accuracies, all_rows, factor_by_dial

TITLES = {
    "a": "the towers know the held-out actions in plain scenes",
    "b": "they do not in clutter and in the dark",
    "c": "EV-CLIP adapts to clutter and to the dark",
    "d": "the mask finds the acting figure",
    "e": "masks help in clutter and in the dark, the context where order matters",
    "f": "the consistency loss",
    "g": "order of the methods",
    "h": "accuracy and factors follow the dial",
    "i": "optimism of a search",
    "j": "accuracy over K and over sizes",
}
_MARKS = {"holds": "**holds**", "fails": "**FAILS**", "not measured": "not measured", "reported": ""}


def write_page(results: Results, folder: Path) -> Sequence[Row]:
    """Write `table.md` and the figures, and return the rows.

    Args:
        results: Records.
        folder: Folder of the page, `docs/science`.
    """
    rows = all_rows(results)
    folder.mkdir(parents=True, exist_ok=True)
    figures = [name for name, draw in _FIGURES.items() if draw(results, folder / name)]
    lines = [
        "<!-- Written by `make science`; do not edit. -->",
        "# Claims, measured",
        "",
        *_summary(rows, results),
        *(line for claim, title in TITLES.items() for line in _claim(claim, title, rows)),
        *_methods(results),
    ]
    for name in figures:
        lines += ["", f"![{_ALT[name]}]({name})"]
    write_text(folder / "table.md", "\n".join(lines) + "\n")
    return rows


def _summary(rows: Sequence[Row], results: Results) -> list[str]:
    counts = {state: sum(row.state == state for row in rows) for state in _MARKS}
    records = list(results.records.values())
    seconds = sum(record["seconds"] for record in records)
    revisions = sorted({str(record["provenance"].get("git")) for record in records})
    devices = sorted({record["conditions"]["device"] for record in records if "conditions" in record})
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return [
        f"{counts['holds']} conditions hold, {counts['fails']} fail, "
        f"{counts['not measured']} are not measured. "
        f"{len(records)} experiments, {seconds / 3600:.1f} hours of single processes"
        + (f" ({', '.join(devices)})" if devices else "")
        + f"; page of {date}"
        + (f", revisions {', '.join(revisions)}." if revisions else "."),
        "",
    ]


def _claim(claim: str, title: str, rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row.claim == claim]
    lines = [
        f"## ({claim}) {title[0].upper()}{title[1:]}",
        "",
        "| what | expected | measured | seeds | verdict |",
    ]
    lines.append("|---|---|---|---|---|")
    for row in chosen:
        cells = (row.text, row.expected, row.measured or "-", row.seeds or "", _MARKS[row.state])
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _methods(results: Results) -> list[str]:
    by_domain = {domain: accuracies(results, domain) for domain in DOMAINS}
    if not any(by_domain.values()):
        return []
    names = ("zero_shot", *METHODS)
    lines = ["## Top-1 of every method on every domain", "", f"| method | {' | '.join(DOMAINS)} |"]
    lines.append("|---" * (len(DOMAINS) + 1) + "|")
    for name in names:
        cells = [str(found[name]) if name in (found := by_domain[domain]) else "-" for domain in DOMAINS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", "95 % intervals over figures of the test videos.", ""]


def _error_bars(axis: Any, x: Sequence[Any], values: Sequence[Value], label: str) -> None:
    middle = [value.value for value in values]
    below = [max(0.0, value.value - value.low) for value in values]
    above = [max(0.0, value.high - value.value) for value in values]
    axis.errorbar(x, middle, yerr=[below, above], marker="o", capsize=3, label=label)


def _draw_dials(results: Results, path: Path) -> bool:
    curves = {
        (domain, predictor): [
            (dial, value)
            for dial in DIALS
            if (
                value := results.accuracy(
                    [trained("both", world_set(domain, dial), results.seeds[0])], predictor
                )
            )
        ]
        for domain in DIAL_DOMAINS
        for predictor in ("zero_shot", "adapted")
    }
    if not any(len(points) > 1 for points in curves.values()):
        return False
    figure, axes = _axes(2, len(DIAL_DOMAINS))
    for column, domain in enumerate(DIAL_DOMAINS):
        for predictor, label in (("zero_shot", "zero-shot"), ("adapted", "EV-CLIP, both prompts")):
            points = curves[domain, predictor]
            _error_bars(axes[0][column], [x for x, _ in points], [value for _, value in points], label)
        axes[0][column].set(title=domain, ylim=(0, 1), ylabel="top-1" if column == 0 else "")
        factor, _ = FACTOR_OF_DIAL[domain]
        means = factor_by_dial(results, domain, factor)
        if len(means) == len(DIALS):
            axes[1][column].plot(DIALS, means, marker="o", color="grey")
        axes[1][column].set(xlabel="dial", ylabel=factor.replace("_", " "))
    axes[0][0].legend(fontsize=8)
    return _save(figure, path)


def _draw_scaling(results: Results, path: Path) -> bool:
    figure, axes = _axes(1, 1 + len(SIZE_DOMAINS))
    drawn = False
    runs: Mapping[int, Mapping[Any, list[Any]]] = {
        0: {
            k: [trained("both", world_set("clutter"), seed, shots=k) for seed in results.seeds]
            for k in ALL_SHOTS
        },
        **{
            column: {size: [of_size(size, domain, seed) for seed in results.seeds] for size in SIZES}
            for column, domain in enumerate(SIZE_DOMAINS, 1)
        },
    }
    for column, by_x in runs.items():
        for predictor, label in (("zero_shot", "zero-shot"), ("adapted", "EV-CLIP, both prompts")):
            found = {x: value for x, each in by_x.items() if (value := results.accuracy(each, predictor))}
            drawn |= len(found) > 1
            _error_bars(axes[0][column], list(map(str, found)), list(found.values()), label)
        axes[0][column].set(ylim=(0, 1), xlabel="CLIP" if column else "videos per class, K")
        axes[0][column].set(title=("clutter", *SIZE_DOMAINS)[column])
    axes[0][0].set(ylabel="top-1")
    axes[0][0].legend(fontsize=8)
    return _save(figure, path) if drawn else False


def _axes(rows: int, columns: int) -> Any:
    # Figures are drawn without a display; pyplot would keep state for all of them.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> bool:
    figure.savefig(path, dpi=120)
    return True


_FIGURES = {"dials.png": _draw_dials, "scaling.png": _draw_scaling}
_ALT = {
    "dials.png": "Top-1 of zero-shot CLIP and EV-CLIP, and the measured factor, over the dial",
    "scaling.png": "Top-1 over the number of videos per class in clutter, and over the sizes of CLIP",
}
