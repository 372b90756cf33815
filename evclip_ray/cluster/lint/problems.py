"""What is wrong with a file, with its line; and the text of a file with the line of each of its parts."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evclip_ray.config import ConfigError

Where = tuple[str | int, ...]
"""Keys and list positions from the top: `("provider", "region")`."""

PLACEHOLDER = "FILL-IN"
_SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bAIza[0-9A-Za-z_-]{35}|AccountKey=[A-Za-z0-9+/]{40,}"
    r"|(?i:(?:secret|password|token|api_?key)[\w-]*)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{20,}"
)


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """`line` counts from 1; 0 is the file as a whole."""

    line: int
    text: str


@dataclasses.dataclass(frozen=True)
class Document:
    """One YAML document: what it holds, and the line of each part."""

    data: Mapping[str, Any]
    lines: Mapping[Where, int]

    def problem(self, where: Sequence[str | int], text: str) -> Problem:
        """A problem at `where`, or at the nearest part above that is in the file."""
        path = tuple(where)
        above = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines)
        return Problem(self.lines[above], text)

    def get(self, *where: str) -> Any:
        """What is there, or None."""
        found: Any = self.data
        for key in where:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def read_documents(path: Path) -> list[Document]:
    """The YAML documents of a file, the empty ones left out.

    Raises:
        ConfigError: no YAML, or one that is no mapping.
    """
    text = read_text(path)
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        values = [value for value in yaml.safe_load_all(text) if value is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not values or not all(isinstance(value, dict) for value in values):
        raise ConfigError(f"{path}: must hold a mapping of settings")
    return [Document(value, dict(_lines(node))) for value, node in zip(values, nodes, strict=True)]


def read_text(path: Path) -> str:
    """The text of a file. Raises: ConfigError: it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text") from None


def common_problems(text: str) -> Iterator[Problem]:
    """What no file may have: places left to fill in, and secrets."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") and not line.startswith("#SBATCH"):
            continue
        if PLACEHOLDER in line:
            yield Problem(number, f"{PLACEHOLDER} is to be filled in: {line.strip()}")
        if holds_secret(line):
            yield Problem(
                number, "looks like a secret; keep it out of files: ~/.ray/auth_token, or a secret store"
            )


def holds_secret(text: str) -> bool:
    """Whether there is something like a private key, an access key or a token in it."""
    return _SECRETS.search(text) is not None


def _lines(node: yaml.Node, where: Where = ()) -> Iterator[tuple[Where, int]]:
    yield where, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*where, key.value))
            yield (*where, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from _lines(value, (*where, place))
