"""Problems of a cluster file with their lines, and YAML documents that know the line of each part."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evclip_ray.config import ConfigError, check_keys, nearest, yaml_fault
from evclip_ray.optional import require

Where = tuple[str | int, ...]
"""Keys and list positions from the top of a document: `("provider", "region")`."""

PLACEHOLDER = "FILL-IN"
# Keys of AWS, in PEM files, of Hugging Face, GitHub, Google and Azure; then any value that is assigned to a
# name such as password or api_key.
_SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bAIza[0-9A-Za-z_-]{35}|AccountKey=[A-Za-z0-9+/]{40,}"
    r"|(?i:(?:secret|password|token|api_?key)[\w-]*)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{20,}"
)


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """A problem in a file. `line` counts from 1; 0 refers to the whole file."""

    line: int
    text: str


@dataclasses.dataclass(frozen=True)
class Document:
    """One YAML document: its data and the line of each part."""

    data: Mapping[str, Any]
    lines: Mapping[Where, int]

    def problem(self, where: Sequence[str | int], text: str) -> Problem:
        """Return a problem at `where`, or at its closest parent that is in the file."""
        path = tuple(where)
        # The empty path is always in `lines`, so the search ends.
        parent = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines)
        return Problem(self.lines[parent], text)

    def get(self, *where: str | int) -> Any:
        """Return the value at these keys and list positions, None if it is missing."""
        value: Any = self.data
        for key in where:
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value


def read_documents(path: Path) -> list[Document]:
    """Return the YAML documents of a file without the empty ones.

    Raises:
        ConfigError: The file is not valid YAML, a key is given twice, or a document is not a mapping.
    """
    text = read_text(path)
    try:
        # Nodes have the line numbers and plain loading has the values, so the text is parsed twice.
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        for node in nodes:
            check_keys(node)
        values = [value for value in yaml.safe_load_all(text) if value is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}, {yaml_fault(error)}") from None
    if not values or not all(isinstance(value, dict) for value in values):
        raise ConfigError(f"{path}: must contain a mapping of settings")
    return [Document(value, dict(_lines(node))) for value, node in zip(values, nodes, strict=True)]


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text") from None


def common_problems(text: str) -> Iterator[Problem]:
    """Yield the problems of any file: placeholders that were not filled in, and secrets."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") and not line.startswith("#SBATCH"):
            continue
        if PLACEHOLDER in line:
            yield Problem(number, f"replace {PLACEHOLDER} in: {line.strip()}")
        if holds_secret(line):
            advice = "Store it outside of the file: ~/.ray/auth_token, or a secret store"
            yield Problem(number, f"looks like a secret. {advice}")


def holds_secret(text: str) -> bool:
    """Return whether a text contains what looks like a private key, an access key or a token."""
    return _SECRETS.search(text) is not None


def schema_problems(document: Document, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield every violation of a JSON schema, with its line, the key and the closest valid key."""
    jsonschema = require("jsonschema", extra="cluster", purpose="the check of a cluster file")
    for error in jsonschema.Draft7Validator(schema).iter_errors(document.data):
        where = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in sorted(set(error.instance) - set(known)):
                text = f"{dotted((*where, key))}: no such key; {nearest(key, known)}"
                yield document.problem((*where, key), text)
        elif error.validator == "required":
            for key in sorted(set(error.validator_value) - set(error.instance)):
                yield document.problem(where, f"{dotted((*where, key))}: is required but missing")
        else:
            yield document.problem(where, f"{dotted(where)}: {error.message}")


def dotted(where: Where) -> str:
    """Return keys and list positions as text, such as `spec.containers[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def _lines(node: yaml.Node, where: Where = ()) -> Iterator[tuple[Where, int]]:
    yield where, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*where, key.value))
            # After the lines of the value, because the later entry wins and a value may start below its key.
            yield (*where, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield from _lines(value, (*where, position))
