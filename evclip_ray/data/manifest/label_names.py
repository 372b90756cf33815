"""Class names of a manifest whose labels are ids: 0, 1, 2, ... or n01440764.

CLIP reads the words of class names, so that a label `7` says nothing to it. A file gives each id its name.
"""

import csv
import dataclasses
import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from evclip_ray.class_names import normalized_name
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

_ID_COLUMNS = ("id", "classid", "labelid", "label", "index", "sno", "target")
_NAME_COLUMNS = ("name", "classname", "class", "labelname", "key", "description", "text")
_ID_FIRST, _ID_LAST = re.compile(r"(\d+)[\s:]+(\S.*)"), re.compile(r"(\S.*?)[\s:]+(\d+)")
_SHOWN = 3
_FORMATS = 'id,name rows of a CSV, {"0": "name"} in JSON, "0 name" lines, or one name per line'

LabelNames = Mapping[str, str] | Sequence[str]
"""Name of each id, or names in the order of ids from 0 or 1."""


def name_labels(manifest: Manifest, path: Path) -> Manifest:
    """Return a manifest with the names of its labels.

    Labels that are a name of the file already are kept.

    Args:
        manifest: List of videos.
        path: File of names, see `read_label_names`.

    Raises:
        ManifestError: The file cannot be read, it lacks a label, or two labels have one name.
    """
    names = read_label_names(path)
    by_id = names if isinstance(names, Mapping) else _numbered(names, manifest, path)
    known = set(by_id.values())
    named = {label: by_id.get(_key(label), label) for label in manifest.classes}
    missing = [label for label, name in named.items() if name not in known]
    if missing:
        shown = ", ".join(map(repr, missing[:_SHOWN])) + (", ..." if missing[_SHOWN:] else "")
        raise ManifestError(
            f"{path}: has no name for {len(missing)} of {counted(len(named), 'label')} of "
            f"{manifest.source}: {shown}; its ids are {', '.join(map(repr, list(by_id)[:_SHOWN]))}, ..."
        )
    labels: dict[str, str] = {}
    for label, name in named.items():
        if (other := labels.setdefault(name, label)) != label:
            raise ManifestError(
                f"{path}: the labels {other!r} and {label!r} of {manifest.source} have one name, {name!r}; "
                "give each its own name"
            )
    column = [named[label] for label in manifest.column("label")]
    position = manifest.table.column_names.index("label")
    table = manifest.table.set_column(position, "label", pa.array(column, pa.string()))
    return dataclasses.replace(manifest, table=table)


def warn_of_numbers(manifest: Manifest) -> None:
    """Log a warning if all labels of a manifest are numbers."""
    if manifest.classes and all(label.isdecimal() for label in manifest.classes):
        logger.warning(
            "%s: all labels are numbers, such as %r, but CLIP reads the words of class names. Give their "
            "names by --class-names FILE (%s), or a column with names by --columns label=NAME",
            manifest.source,
            manifest.classes[0],
            _FORMATS,
        )


def read_label_names(path: Path) -> LabelNames:
    """Read the names of labels.

    JSON files have an object {id: name} or {name: id}, or a list of names. Other files have rows of an id and
    a name, separated by a comma, semicolon, tab or blank, or one name per line. A header may name the
    columns.

    Raises:
        ManifestError: The file cannot be read or has another format, or an id has two names.
    """
    try:
        text = unicodedata.normalize("NFC", path.expanduser().read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); check --class-names") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: must be text in UTF-8 ({error.reason}); save it as one") from None
    rows = _from_json(path, text) if path.suffix.lower() == ".json" else _from_text(path, text)
    if not rows:
        raise ManifestError(f"{path}: has no names; write {_FORMATS}")
    if isinstance(rows[0], str):
        return [str(name) for name in rows]
    names: dict[str, str] = {}
    for number, name in rows:
        if names.setdefault(_key(number), name) != name:
            raise ManifestError(
                f"{path}: the id {number!r} has two names, {names[_key(number)]!r} and {name!r}"
            )
    return names


def _from_json(path: Path, text: str) -> list[tuple[str, str]] | list[str]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"{path}: not valid JSON ({error})") from None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [name.strip() for name in content]
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return [(number, name.strip()) for number, name in content.items()]
    if isinstance(content, dict) and all(isinstance(number, int) for number in content.values()):
        return [(str(number), name.strip()) for name, number in content.items()]
    raise ManifestError(f'{path}: must be {{"0": "name", ...}} or ["name", ...]')


def _from_text(path: Path, text: str) -> list[tuple[str, str]] | list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    delimiter = next((sign for sign in "\t;," if lines and all(sign in line for line in lines)), None)
    if delimiter is not None:
        return _from_table(path, list(csv.reader(lines, delimiter=delimiter)))
    for pattern, order in ((_ID_FIRST, (1, 2)), (_ID_LAST, (2, 1))):
        matches = [pattern.fullmatch(line) for line in lines]
        if all(matches):
            return [(match[order[0]], match[order[1]]) for match in matches if match]
    return lines


def _from_table(path: Path, rows: list[list[str]]) -> list[tuple[str, str]]:
    cells = [[cell.strip() for cell in row] for row in rows]
    header = [normalized_name(cell) for cell in cells[0]]
    ids = [header.index(name) for name in _ID_COLUMNS if name in header]
    names = [header.index(name) for name in _NAME_COLUMNS if name in header]
    if ids and names:
        columns, cells = (ids[0], names[0]), cells[1:]
    elif all(len(row) == 2 for row in cells):
        # Numbers are ids; otherwise the id comes first.
        columns = (1, 0) if all(row[1].isdecimal() for row in cells) else (0, 1)
    else:
        raise ManifestError(f"{path}: the header must name a column of ids and one of names, as id,name")
    short = next((row for row in cells if len(row) <= max(columns)), None)
    if short is not None:
        raise ManifestError(f"{path}: a row must have {len(header)} cells, got {short!r}")
    return [(row[columns[0]], row[columns[1]]) for row in cells]


def _numbered(names: Sequence[str], manifest: Manifest, path: Path) -> dict[str, str]:
    """Return names in the order of ids by id, from 0 or 1 as the labels are."""
    labels = {_key(label) for label in manifest.classes}
    starts = [start for start in (0, 1) if labels <= {str(start + k) for k in range(len(names))}]
    if len(starts) == 2:
        raise ManifestError(
            f"{path}: has no ids, and the labels of {manifest.source} fit to ids from 0 and from 1. Write "
            "the id before each name"
        )
    start = starts[0] if starts else 0
    return {str(start + k): name for k, name in enumerate(names)}


def _key(label: str) -> str:
    # 007 and 7 are one id.
    return str(int(label)) if label.isdecimal() else label
