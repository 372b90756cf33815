"""Output of `evclip-ray predict`: JSON lines, CSV rows and a table."""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from evclip_ray.cli.display import console, error_console

if TYPE_CHECKING:
    from evclip_ray.deploy.predictions import FailedVideo, Prediction, WindowPrediction
    from evclip_ray.deploy.timeline import Segment


class Results:
    """Writes each result as soon as it is there, and collects the rows of the table.

    Args:
        json_lines: Stream of JSON lines; None for none.
        csv_rows: Stream of the CSV table; None for none.
        top_k: Number of classes per row of the CSV table.
        table_k: Number of classes per row of the printed table.
        has_table: Whether a table is printed at the end.
    """

    def __init__(
        self,
        json_lines: IO[str] | None,
        csv_rows: IO[str] | None,
        *,
        top_k: int,
        table_k: int,
        has_table: bool,
    ) -> None:
        self._json, self._top_k, self._table_k, self._has_table = json_lines, top_k, table_k, has_table
        self._csv_stream = csv_rows
        self._csv = None if csv_rows is None else csv.writer(csv_rows, lineterminator="\n")
        self._rows: list[tuple[str, WindowPrediction, tuple[Segment, ...]]] = []
        self._last_name: str | None = None
        self.num_failed = self.num_done = 0
        ranks = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("class", "probability")]
        self._write_csv(
            ["video", "start_seconds", "end_seconds", "unknown", *ranks, "prediction_set", "error"]
        )

    def add(self, prediction: "Prediction", segments: "tuple[Segment, ...] | None") -> None:
        """Write a prediction.

        Args:
            prediction: The prediction.
            segments: Timeline of the video; None without windows.
        """
        self.num_done += 1
        record = prediction.record()
        if segments is not None:
            record["timeline"] = [segment.record() for segment in segments]
        self._write_json(record)
        for window in prediction.windows:
            self._write_window(prediction.video, window)
        if self._has_table:
            # Without the windows: those of many long videos would fill the memory.
            self._rows.append((prediction.video, prediction.overall, segments or ()))

    def add_window(self, source: str, window: "WindowPrediction") -> None:
        """Write a window of a camera or stream. In place of a table, each new class is printed at once."""
        self._write_json({"video": source, **window.record()})
        self._write_window(source, window)
        name = "unknown" if window.is_unknown else window.best.name
        if self._has_table and name != self._last_name:
            self._last_name = name
            # Followed by people, and by programs that read lines.
            console.print(
                f"{window.start_seconds:9.2f} s  {name}  {window.best.probability:.2f}", soft_wrap=True
            )

    def fail(self, failed: "FailedVideo", what: str = "") -> None:
        """Write a failure, and report it.

        Args:
            failed: The video and the reason.
            what: Output that failed, such as "overlay"; empty if the video itself could not be read.
        """
        self.num_failed += 1
        error_console.print(
            f"failed: {what + ' of ' if what else ''}{failed.video}: {failed.error}", soft_wrap=True
        )
        if not what:
            self._write_json(failed.record())
            gap = [""] * (2 * self._top_k + 4)
            self._write_csv([failed.video, *gap, failed.error])

    def print_table(self) -> None:
        """Print the table of all predictions."""
        if self._rows:
            has_windows = any(segments for _, _, segments in self._rows)
            console.print(_timelines(self._rows) if has_windows else _videos(self._rows, self._table_k))

    def _write_window(self, video: str, window: "WindowPrediction") -> None:
        scores: list[Any] = []
        for score in window.scores:
            scores += [score.name, f"{score.probability:.6f}"]
        scores += [""] * (2 * self._top_k - len(scores))
        names = "" if window.prediction_set is None else "; ".join(window.prediction_set)
        times = [f"{window.start_seconds:.3f}", f"{window.end_seconds:.3f}"]
        self._write_csv([video, *times, str(window.is_unknown).lower(), *scores, names, ""])

    def _write_json(self, record: dict[str, Any]) -> None:
        if self._json is not None:
            # ASCII, so that every line is valid in any encoding, also for names that are not UTF-8.
            self._json.write(json.dumps(record) + "\n")
            # Each line at once, so that a program can follow and an interruption loses nothing.
            self._json.flush()

    def _write_csv(self, cells: Sequence[Any]) -> None:
        if self._csv is not None and self._csv_stream is not None:
            self._csv.writerow(cells)
            self._csv_stream.flush()


@contextlib.contextmanager
def opened(path: Path | None, *, is_stdout: bool) -> Iterator[IO[str] | None]:
    """Open a file of results for the time of the block.

    Args:
        path: The file; None for none.
        is_stdout: Whether the results go to standard output.
    """
    if is_stdout:
        yield sys.stdout
    elif path is None:
        yield None
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Bytes of file names that are not UTF-8 are written as they are.
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            try:
                yield stream
                stream.flush()
            except OSError as error:
                # `write` does not know the name of its file.
                if error.errno is not None and error.filename is None:
                    error.filename = str(path)
                raise


def _table() -> Table:
    return Table(box=SIMPLE, padding=(0, 1, 0, 0))


def _videos(rows: "list[tuple[str, WindowPrediction, tuple[Segment, ...]]]", top_k: int) -> Table:
    has_sets = any(overall.prediction_set is not None for _, overall, _ in rows)
    table = _table()
    table.add_column("video", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("next classes", overflow="fold")
    if has_sets:
        table.add_column("prediction set", overflow="fold")
    for video, overall, _ in rows:
        best = overall.best
        following = overall.scores[0 if overall.is_unknown else 1 : top_k]
        others = ", ".join(f"{score.name} {score.probability:.2f}" for score in following)
        cells = [video, "unknown" if overall.is_unknown else best.name, f"{best.probability:.2f}", others]
        if has_sets:
            cells.append(", ".join(overall.prediction_set or ()) or "empty")
        table.add_row(*cells)
    return table


def _timelines(rows: "list[tuple[str, WindowPrediction, tuple[Segment, ...]]]") -> Table:
    table = _table()
    table.add_column("video", overflow="fold")
    table.add_column("from (s)", justify="right")
    table.add_column("to (s)", justify="right")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for video, _, segments in rows:
        for number, segment in enumerate(segments):
            table.add_row(
                # The name once per video, so that the eye sees where the next one starts.
                "" if number else video,
                f"{segment.start_seconds:.2f}",
                f"{segment.end_seconds:.2f}",
                segment.name or "unknown",
                f"{segment.probability:.2f}",
            )
    return table
