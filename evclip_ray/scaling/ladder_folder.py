"""Folder of a ladder.

    ledger.json              identity of the ladder, its steps and how each ended
    rungs/NAME/              study of a step
    costs/NAME.json          cost of the best trial's experiment of a step, counted and measured
    ladder.csv               one row per step
    costs.csv                one row per step, quantity and part
    transfer.csv             one row per step and searched setting: its best value
    importance.csv           one row per step and searched setting: its importance
    fits.json                curves of accuracy over cost, and slopes of the best settings

The tables are derived from the studies and can be written again from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evclip_ray.artifacts import write_csv
from evclip_ray.claimed_folder import ClaimedFolder

# Earlier versions called the steps rungs; the names on disk stay, so that older ladders can be read.
_STEPS = "rungs"
NOTED_STEPS = "rungs"
"""Key of the steps in the ledger."""


class LadderFolder(ClaimedFolder):
    """Paths and records of one ladder."""

    STAGE: ClassVar[str] = "ladder"

    def step(self, name: str) -> Path:
        """Return the folder of a step's study."""
        return self.root / _STEPS / name

    def cost(self, name: str) -> Path:
        """Return the file of a step's cost."""
        return self.root / "costs" / f"{name}.json"

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write `NAME.csv`; missing values are empty."""
        cells = ([row[column] for column in columns] for row in rows)
        write_csv(self.root / f"{name}.csv", columns, cells, digits=6)
