"""Base of the folders that a study or a ladder claims: identity in the ledger, and a lock while it runs."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from filelock import Timeout

from evclip_ray.artifacts import (
    LEDGER,
    ArtifactError,
    check_writable,
    digest,
    read_json,
    read_ledger,
    write_json,
    write_ledger,
)
from evclip_ray.config import flatten
from evclip_ray.locking import holder, holding

_LOCK = ".lock"
_MOST_SHOWN = 6
"""Settings of another study that are named."""
# Earlier versions wrote the holder of the lock to a file of its own.
_LOCK_FILES = (_LOCK, ".owner.json")


class ClaimedFolder:
    """Folder that belongs to one study or ladder, by the identity in its ledger.

    `check` looks without writing, `claim` writes the ledger of a new folder, `lock` keeps other processes
    out while this one runs.
    """

    STAGE: ClassVar[str]
    """Stage in the ledger; also the noun in messages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Return whether the folder was claimed before with this identity; False if it is new or empty.

        Raises:
            ArtifactError: The folder belongs to another identity or holds other files.
        """
        if (self.root / LEDGER).is_file():
            ledger = self.ledger()
            # The digest decides; the inputs are compared only to name the settings that differ.
            if ledger["key"] != digest(identity):
                changed = describe_differences(ledger["inputs"], identity)
                raise ArtifactError(
                    f"{self.root}: belongs to another {self.STAGE} (begun with -> given: {changed}); "
                    "choose another --out, or give the settings that it began with"
                )
            return True
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        # A process that was killed between the lock and the ledger leaves these two files in a new folder.
        if self.root.is_file() or names - set(_LOCK_FILES):
            raise ArtifactError(
                f"{self.root}: must be a new folder or the folder of a {self.STAGE}, but holds other files; "
                f"choose another --out, or restore {LEDGER} from a copy if this is a {self.STAGE}"
            )
        return False

    def claim(self, identity: Mapping[str, Any], **facts: Any) -> None:
        """Write the ledger if the folder is new.

        Args:
            identity: Identity of the study or ladder.
            **facts: Further facts of a new ledger.

        Raises:
            ArtifactError: As `check`, or the folder is not writable or is locked by another process.
        """
        is_claimed = self.check(identity)
        with self.lock():
            if not is_claimed:
                write_ledger(self.root, self.STAGE, inputs=identity, **facts)

    @property
    def has_ledger(self) -> bool:
        """Whether the folder has a ledger that can be read."""
        try:
            return isinstance(read_json(self.root / LEDGER), dict)
        except ArtifactError:
            return False

    def ledger(self) -> dict[str, Any]:
        """Return the ledger with all notes.

        Raises:
            ArtifactError: The folder has no ledger of this stage.
        """
        return read_ledger(self.root, self.STAGE)

    def note(self, **facts: Any) -> None:
        """Add facts to the ledger."""
        write_json(self.root / LEDGER, self.ledger() | facts)

    def check_writable(self) -> None:
        """Create the folder if it is missing and check that it is writable.

        Raises:
            ArtifactError: It is not writable.
        """
        check_writable(self.root, "choose another --out")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock during the block. The lock ends with its process, also by SIGKILL.

        Raises:
            ArtifactError: The folder is not writable, or another process holds the lock.
        """
        self.check_writable()
        path = self.root / _LOCK
        try:
            lock = contextlib.ExitStack()
            lock.enter_context(holding(path, f"{self.root} is in use", wait=False))
        except Timeout:
            raise ArtifactError(
                f"{self.root}: {holder(path)} is running this {self.STAGE}; "
                "wait for it, end it, or choose another --out"
            ) from None
        with lock:
            yield


def describe_differences(begun: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the settings that differ, each with both values: `optim.epochs: 20 -> 5`."""
    # As JSON reads them: a tuple of the identity is a list in the ledger.
    before, after = flatten(begun), flatten(json.loads(json.dumps(dict(given))))
    paths = [path for path in {**before, **after} if not _is_same(before.get(path), after.get(path))]
    lines = [
        f"{path.removeprefix('fixed.')}: {_shown(before, path)} -> {_shown(after, path)}" for path in paths
    ]
    more = f", and {len(lines) - _MOST_SHOWN} more" if len(lines) > _MOST_SHOWN else ""
    return ", ".join(lines[:_MOST_SHOWN]) + more


def _shown(settings: Mapping[str, Any], path: str) -> str:
    return str(settings[path]) if path in settings else "not set"


def _is_same(before: Any, after: Any) -> bool:
    """Return whether two values are equal, also as numbers: YAML reads `1e-2` as text."""
    try:
        return before == after or float(before) == float(after)
    except (TypeError, ValueError):
        return False
