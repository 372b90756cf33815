"""A ladder's folder: what it holds, and whom it belongs to.

    ledger.json              what the ladder is (another one is refused here), its rungs and how each ended
    rungs/NAME/              the study of a rung, a folder like any study's
    costs/NAME.json          what the best trial's experiment of a rung costs, counted and measured
    ladder.csv               a row a rung
    costs.csv                a row a rung, quantity and part
    transfer.csv             a row a rung and searched setting: where it is best
    importance.csv           a row a rung and searched setting: how much it mattered
    fits.json                curves of accuracy over cost, and slopes of the best settings

The rungs' studies are the truth: the tables can be made again from them.
"""

import contextlib
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import (
    LEDGER,
    ArtifactError,
    digest,
    read_ledger,
    write_json,
    write_ledger,
    write_text,
)  # fmt: skip
from evclip_ray.tuning.study_folder import StudyFolder

STAGE = "ladder"
_OURS = {".lock", ".owner.json"}


class LadderFolder:
    """Paths and records of one ladder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rung(self, name: str) -> Path:
        """The study of a rung."""
        return self.root / "rungs" / name

    def cost(self, name: str) -> Path:
        """What a rung costs."""
        return self.root / "costs" / f"{name}.json"

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether the ladder has begun here.

        Raises:
            ArtifactError: the folder holds another ladder, or something else.
        """
        if (self.root / LEDGER).is_file():
            ledger = self.ledger()
            if ledger["key"] != digest(identity):
                changed = sorted(k for k in identity if ledger["inputs"].get(k) != identity[k])
                raise ArtifactError(
                    f"{self.root}: belongs to another ladder (it differs in: {', '.join(changed)}); "
                    "choose another --out, or give the settings that it began with"
                )
            return True
        if self.root.is_file() or (self.root.is_dir() and {p.name for p in self.root.iterdir()} - _OURS):
            raise ArtifactError(
                f"{self.root}: must be a new folder or a ladder's, it holds other files; choose another --out"
            )
        return False

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Make the folder this ladder's, or find that it is already.

        Raises:
            ArtifactError: as `check`.
        """
        if not self.check(identity):
            write_ledger(self.root, STAGE, inputs=identity)

    def ledger(self) -> dict[str, Any]:
        """What the ladder is, and what was noted of it since."""
        return read_ledger(self.root, STAGE)

    def note(self, **facts: Any) -> None:
        """Add facts to the ledger."""
        write_json(self.root / LEDGER, self.ledger() | facts)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Have the folder to oneself, as a study has its own.

        Raises:
            ArtifactError: another process has it, or it cannot be written to.
        """
        StudyFolder(self.root).check_writable()
        return StudyFolder(self.root).lock()

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write `NAME.csv`; what is unknown is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[column]) for column in columns])
        write_text(self.root / f"{name}.csv", text.getvalue())


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
