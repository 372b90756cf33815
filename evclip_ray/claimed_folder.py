"""Base of the folders that a study or a ladder claims: identity in the ledger, and a lock while it runs."""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

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

_LOCK, _OWNER = ".lock", ".owner.json"


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
                changed = sorted(k for k in identity if ledger["inputs"].get(k) != identity[k])
                raise ArtifactError(
                    f"{self.root}: belongs to another {self.STAGE} (it differs in: {', '.join(changed)}); "
                    "choose another --out, or give the settings that it began with"
                )
            return True
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        # A process that was killed between the lock and the ledger leaves these two files in a new folder.
        if self.root.is_file() or names - {_LOCK, _OWNER}:
            raise ArtifactError(
                f"{self.root}: must be a new folder or the folder of a {self.STAGE}, but holds other files; "
                "choose another --out"
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
        owner, lock = self.root / _OWNER, FileLock(self.root / _LOCK)
        try:
            # An operating-system lock: the kernel releases it when the process ends, so none can be left
            # over.
            lock.acquire(blocking=False)
        except Timeout:
            holder = read_json(owner) if owner.is_file() else {"pid": "?", "host": "?"}
            raise ArtifactError(
                f"{self.root}: process {holder['pid']} on {holder['host']} is running this {self.STAGE}; "
                "wait for it, end it, or choose another --out"
            ) from None
        try:
            # For the message of another process only; the lock alone decides.
            write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            lock.release()
