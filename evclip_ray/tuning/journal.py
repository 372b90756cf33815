"""Text of a study's journal, read without Optuna: its operations, its damage, and the state of each trial.

Optuna writes one operation per line, as JSON. The operations of a trial refer to it by its number in the
order of creation, so that the operations behind a damaged line cannot be trusted.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from evclip_ray.records import TrialState

# Optuna's `JournalOperation`, which is private. These numbers are in the files.
CREATE_TRIAL, SET_PARAM, SET_STATE, SET_USER_ATTR = 4, 5, 6, 8
_ENDED = {1: TrialState.COMPLETE, 2: TrialState.STOPPED, 3: TrialState.FAILED}
FOLDER, OVERRIDES, INTERRUPTED = "folder", "overrides", "interrupted"
"""User attributes of a trial."""

Damage = Literal["none", "tail", "middle"]


@dataclasses.dataclass(frozen=True)
class Journal:
    """Content of a journal.

    Attributes:
        operations: Operations before the first damaged line.
        behind: Operations behind it.
        damage: "tail" if everything before the damage is whole and nothing is behind it. Blank lines and a
            missing last line end count as such.
        reason: Description of the damage, empty without one.
    """

    operations: list[dict[str, Any]]
    behind: list[dict[str, Any]]
    damage: Damage
    reason: str


def read_journal(path: Path) -> Journal:
    """Return the content of a journal; an empty one if the file is missing."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Journal([], [], "none", "")
    lines = content.split(b"\n")
    first_bad, blank = 0, 0
    operations: list[dict[str, Any]] = []
    behind: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        operation = _operation(line)
        if operation is not None:
            (behind if first_bad else operations).append(operation)
        elif line.strip():
            first_bad = first_bad or number
        elif number < len(lines):
            blank = blank or number
    if first_bad:
        damage: Damage = "middle" if behind else "tail"
        return Journal(operations, behind, damage, f"line {first_bad} is damaged")
    if blank:
        return Journal(operations, [], "tail", f"line {blank} is blank")
    if lines[-1]:
        return Journal(operations, [], "tail", "its last line has no end")
    return Journal(operations, [], "none", "")


def _operation(line: bytes) -> dict[str, Any] | None:
    try:
        operation = json.loads(line)
    except ValueError:
        return None
    return operation if isinstance(operation, dict) and "op_code" in operation else None


@dataclasses.dataclass
class _Note:
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    params: list[str] = dataclasses.field(default_factory=list)
    state: int = 0


class JournalNotes:
    """Point and state of each trial in a journal. Repeated calls read only what was added to the file.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clear()

    def _clear(self) -> None:
        self._read_bytes, self._inode, self._is_whole = 0, 0, True
        self._notes: list[_Note] = []

    def state(self, folder: str) -> TrialState | None:
        """Return how the trial in a folder ended; None if it has not ended."""
        note = self._of_folders().get(folder)
        if note is None or note.attributes.get(INTERRUPTED):
            return None
        return _ENDED.get(note.state)

    def overrides(self, folder: str) -> dict[str, Any] | None:
        """Return the point of the trial in a folder; None for journals of earlier versions."""
        # A point that was enqueued again has its attribute only once it is drawn.
        known = [note.attributes for note in self._updated() if note.attributes.get(FOLDER) == folder]
        return next((dict(each[OVERRIDES]) for each in reversed(known) if OVERRIDES in each), None)

    def params(self, folder: str) -> list[str]:
        """Return the names of the parameters of the trial in a folder."""
        known = [note.params for note in self._updated() if note.attributes.get(FOLDER) == folder]
        return next((params for params in reversed(known) if params), [])

    def folders(self) -> list[str]:
        """Return the folders of all trials."""
        return sorted(self._of_folders())

    def _of_folders(self) -> Mapping[str, _Note]:
        return {note.attributes[FOLDER]: note for note in self._updated() if FOLDER in note.attributes}

    def _updated(self) -> list[_Note]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._clear()
            return self._notes
        # The journal is only appended to, or replaced as a whole.
        if status.st_ino != self._inode or status.st_size < self._read_bytes:
            self._clear()
            self._inode = status.st_ino
        if self._is_whole and status.st_size > self._read_bytes:
            for operation in self._added():
                self._apply(operation)
        return self._notes

    def _added(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as stream:
            stream.seek(self._read_bytes)
            for line in stream:
                # A line without its end is still being written.
                if not line.endswith(b"\n"):
                    return
                operation = _operation(line)
                if operation is None and line.strip():
                    self._is_whole = False
                    return
                self._read_bytes += len(line)
                if operation is not None:
                    yield operation

    def _apply(self, operation: Mapping[str, Any]) -> None:
        code = operation["op_code"]
        if code == CREATE_TRIAL:
            note = _Note(dict(operation.get("user_attrs") or {}), list(operation.get("params") or ()))
            note.state = int(operation.get("state", 0))
            self._notes.append(note)
        elif code in (SET_PARAM, SET_STATE, SET_USER_ATTR) and operation["trial_id"] < len(self._notes):
            note = self._notes[operation["trial_id"]]
            if code == SET_PARAM:
                note.params.append(operation["param_name"])
            elif code == SET_STATE:
                note.state = int(operation["state"])
            else:
                note.attributes |= operation["user_attr"]
