"""Something-Something v2: `{train,validation}.json`, `labels.json`, and `test-answers.csv`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from evclip_ray.class_names import normalized_name
from evclip_ray.data.importers.annotation_files import (
    Line,
    ListError,
    find_list,
    read_json,
    read_lines,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, Listed, build_report, check_choice, places
from evclip_ray.data.storage import Place

_OLD = "something-something-v2-"


def import_ssv2(
    root: Place, *, lists: Path | None = None, held_out: Literal["validation", "test"] = "validation",
    frames: bool = False, fps: float | None = None,
) -> ImportReport:  # fmt: skip
    """The 174 templates, from `<id>.webm` (or another suffix, or a folder of frames) under `root`.

    `lists`: the folder of the JSON files, by their old or new names; by default labels in or beside
    `root`. `held_out`: the official split to read as "test". With "validation", as published, none is
    left for selection but a part of train; with "test", the official validation split is "val".
    `frames`: where a video has its frames beside it, they are meant; `fps`: their rate, if known.

    Raises:
        ListError: a list that is missing or broken; no video under `root`.
        ConfigError: no such split to hold out.
    """
    check_choice("held_out", held_out, ("validation", "test"))
    folders = places(root, lists, "labels")
    classes = _classes(find_list(folders, "labels.json", f"{_OLD}labels.json"))
    train = find_list(folders, "train.json", f"{_OLD}train.json")
    validation = find_list(folders, "validation.json", f"{_OLD}validation.json")
    rows = _rows(train, "train", classes)
    rows += _rows(validation, "test" if held_out == "validation" else "val", classes)
    if held_out == "test":
        rows += _answers(find_list(folders, "test-answers.csv"), classes)
    return build_report(rows, classes, root=root, source="ssv2", frames=frames, fps=fps)


def _classes(path: Path) -> tuple[str, ...]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ListError(f"{path}: must map templates to ids; download it again")

    def named() -> Iterator[tuple[Line, int, str]]:
        for number, (name, value) in enumerate(found.items(), start=1):
            line = Line(path, number, f"{name}: {value}", "item")
            yield line, whole_number(line, str(value), "the class id"), str(name)

    return ordered_classes(path, named(), first=0)


def _rows(path: Path, split: str, classes: tuple[str, ...]) -> list[Listed]:
    found = read_json(path)
    if not isinstance(found, list):
        raise ListError(f"{path}: must be a list of videos; download it again")
    indices = {normalized_name(name): index for index, name in enumerate(classes)}
    rows = []
    for number, item in enumerate(found, start=1):
        line = Line(path, number, str(item), "item")
        identity, template = _item(line, item)
        rows.append(_listed(line, identity, template, split, indices))
    return rows


def _item(line: Line, item: Any) -> tuple[str, str]:
    if not isinstance(item, dict) or not {"id", "template"} <= item.keys():
        raise line.error("an item must have an id and a template")
    return str(item["id"]).strip(), str(item["template"])


def _answers(path: Path, classes: tuple[str, ...]) -> list[Listed]:
    indices = {normalized_name(name): index for index, name in enumerate(classes)}
    rows = []
    for line in read_lines(path):
        identity, semicolon, template = line.text.strip().partition(";")
        if not semicolon:
            raise line.error("must be <id>;<template>")
        rows.append(_listed(line, identity.strip(), template, "test", indices))
    return rows


def _listed(line: Line, identity: str, template: str, split: str, indices: dict[str, int]) -> Listed:
    name = normalized_name(template.replace("[", "").replace("]", ""))
    if not identity or name not in indices:
        raise line.error("the id must not be blank, and the template without its brackets be in labels.json")
    return Listed(line, f"{identity}.webm", indices[name], split)
