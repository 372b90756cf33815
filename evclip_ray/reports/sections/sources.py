"""Sources of a report's numbers: files of the folder, each with the digest of its bytes."""

import functools
from pathlib import Path

from evclip_ray.artifacts import digest, file_digest
from evclip_ray.formatting import counted


class Sources:
    """Files under `root` that numbers were read from."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cache  # noqa: B019  (the cache lives as long as one report)
    def line(self, pattern: str) -> str:
        """Return the files that a pattern matches with their digest: "ledger.json (3f2a...)"."""
        files = sorted(path for path in self.root.glob(pattern) if path.is_file())
        if not files:
            return f"{pattern} (missing)"
        if len(files) == 1:
            return f"{files[0].relative_to(self.root).as_posix()} ({file_digest(files[0])})"
        return f"{pattern} ({counted(len(files), 'file')}, {digest([file_digest(path) for path in files])})"

    def text(self, patterns: tuple[str, ...]) -> str:
        """Return one line for several patterns."""
        return "; ".join(self.line(pattern) for pattern in patterns)
