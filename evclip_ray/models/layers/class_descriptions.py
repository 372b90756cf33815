"""Class descriptions from a CSV or JSON file: one text per class, by a person or a language model."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from evclip_ray.class_names import normalized_name
from evclip_ray.config import ConfigError, nearest

_NAME_COLUMNS = ("classname", "class", "name", "label", "action", "category")
_TEXT_COLUMNS = ("descri", "discri", "text", "caption", "prompt")


def read_descriptions(path: Path, class_names: Sequence[str]) -> list[str]:
    """Return the description of each class, in the order of `class_names`.

    The first row names the columns. The class column is called "Class Name", "class", "name", "label" or
    similar; the name of the text column contains "description", "discription" (as published), "text" or
    similar. Other columns are ignored. Quoted texts may span lines. A JSON file has {class: description}.
    Names are compared by letters and digits alone: "Apply Eye Makeup" equals "ApplyEyeMakeup".

    Raises:
        ConfigError: The file or a column is missing, or a class has no description or two.
    """
    described = _from_json(path) if path.suffix.lower() == ".json" else _described(path)
    texts = []
    for name in class_names:
        text = described.get(normalized_name(name))
        if not text:
            raise ConfigError(
                f"{path}: class {name!r} has no description; add a row or correct its name "
                f"({nearest(normalized_name(name), list(described))})"
            )
        texts.append(text)
    return texts


def _from_json(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check method.descriptions") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON in UTF-8 ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise ConfigError(f'{path}: must be {{"class": "description", ...}}')
    described: dict[str, str] = {}
    for name, text in content.items():
        line = " ".join(text.split())
        if described.setdefault(normalized_name(name), line) != line:
            raise ConfigError(f"{path}: class {name!r} is described twice; keep one entry")
    return described


def _described(path: Path) -> dict[str, str]:
    rows = _rows(path)
    header = rows[0]
    name_column = _column(
        path, header, "class name", [normalized_name(cell) in _NAME_COLUMNS for cell in header]
    )
    text_column = _column(path, header, "description", [_is_text(cell) for cell in header])
    described: dict[str, str] = {}
    for row in rows[1:]:
        if len(row) <= max(name_column, text_column):
            raise ConfigError(f"{path}: a row must have {len(header)} cells, got {row!r}")
        key, text = normalized_name(row[name_column]), " ".join(row[text_column].split())
        if described.setdefault(key, text) != text:
            raise ConfigError(f"{path}: class {row[name_column]!r} is described twice; keep one row")
    return described


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check method.descriptions") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: must be a CSV in UTF-8 ({error}); save it as one") from None
    if not rows:
        raise ConfigError(f"{path}: the file has no rows; it needs a header and one row per class")
    return rows


def _column(path: Path, header: list[str], what: str, matches: list[bool]) -> int:
    if sum(matches) != 1:
        raise ConfigError(
            f"{path}: exactly one column must be named like a {what}, got {sum(matches)}; "
            f"its columns are {', '.join(map(repr, header))}"
        )
    return matches.index(True)


def _is_text(cell: str) -> bool:
    return any(part in normalized_name(cell) for part in _TEXT_COLUMNS)
