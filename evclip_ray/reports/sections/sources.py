"""Where a report's numbers come from: the folder's own files, each with the digest of its bytes."""

import functools
from pathlib import Path

from evclip_ray.artifacts import digest, file_digest


class Sources:
    """The files under `root` that numbers were read from."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cache  # noqa: B019  (a report's own, gone with it)
    def line(self, pattern: str) -> str:
        """A file, or all that a pattern matches, with a digest: "ledger.json (3f2a...)"."""
        files = sorted(path for path in self.root.glob(pattern) if path.is_file())
        if not files:
            return f"{pattern} (not there)"
        if len(files) == 1:
            return f"{files[0].relative_to(self.root).as_posix()} ({file_digest(files[0])})"
        return f"{pattern} ({len(files)} files, {digest([file_digest(path) for path in files])})"

    def text(self, patterns: tuple[str, ...]) -> str:
        """One line of several."""
        return "; ".join(self.line(pattern) for pattern in patterns)
