"""Importer of Something-Something v2: `{train,validation}.json`, `labels.json` and `test-answers.csv`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from evclip_ray.class_names import normalized_name
from evclip_ray.data.importers.annotation_files import (
    AnnotationError,
    Line,
    find_annotation_file,
    list_folders,
    read_json,
    read_lines,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

_OLD = "something-something-v2-"


def import_ssv2(
    root: Place,
    *,
    lists: Path | None = None,
    held_out: Literal["validation", "test"] = "validation",
    frames: bool = False,
    fps: float | None = None,
) -> ImportReport:
    """Import the videos of the 174 templates from `<id>.webm`, another suffix, or a folder of frames.

    Args:
        root: Folder of the videos or frames.
        lists: Folder of the JSON files, by their old or new names; by default labels in or next to `root`.
        held_out: Official split that becomes "test". With "validation", as published, validation videos must
            be taken from train. With "test", the official validation split becomes "val".
        frames: Prefer a folder of frames to a video file of the same name.
        fps: Frame rate of the folders, None if unknown.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: `held_out` is unknown.
    """
    check_choice("held_out", held_out, ("validation", "test"))
    folders = list_folders(root, lists, "labels")
    classes = _classes(find_annotation_file(folders, "labels.json", f"{_OLD}labels.json"))
    train = find_annotation_file(folders, "train.json", f"{_OLD}train.json")
    validation = find_annotation_file(folders, "validation.json", f"{_OLD}validation.json")
    rows = _rows(train, "train", classes)
    rows += _rows(validation, "test" if held_out == "validation" else "val", classes)
    if held_out == "test":
        rows += _answers(find_annotation_file(folders, "test-answers.csv"), classes)
    return build_report(rows, classes, root=root, source="ssv2", frames=frames, fps=fps)


def _classes(path: Path) -> tuple[str, ...]:
    labels = read_json(path)
    if not isinstance(labels, dict):
        raise AnnotationError(f"{path}: must map templates to ids; download it again")

    def named() -> Iterator[tuple[Line, int, str]]:
        for number, (name, value) in enumerate(labels.items(), start=1):
            line = Line(path, number, f"{name}: {value}", "item")
            yield line, whole_number(line, str(value), "the class id"), str(name)

    return ordered_classes(path, named(), first=0)


def _rows(path: Path, split: str, classes: tuple[str, ...]) -> list[ListedVideo]:
    items = read_json(path)
    if not isinstance(items, list):
        raise AnnotationError(f"{path}: must be a list of videos; download it again")
    indices = {normalized_name(name): index for index, name in enumerate(classes)}
    rows = []
    for number, item in enumerate(items, start=1):
        line = Line(path, number, str(item), "item")
        identity, template = _item(line, item)
        rows.append(_listed(line, identity, template, split, indices))
    return rows


def _item(line: Line, item: Any) -> tuple[str, str]:
    if not isinstance(item, dict) or not {"id", "template"} <= item.keys():
        raise line.error("an item must have an id and a template")
    return str(item["id"]).strip(), str(item["template"])


def _answers(path: Path, classes: tuple[str, ...]) -> list[ListedVideo]:
    indices = {normalized_name(name): index for index, name in enumerate(classes)}
    rows = []
    for line in read_lines(path):
        identity, semicolon, template = line.text.strip().partition(";")
        if not semicolon:
            raise line.error("must be <id>;<template>")
        rows.append(_listed(line, identity.strip(), template, "test", indices))
    return rows


def _listed(line: Line, identity: str, template: str, split: str, indices: dict[str, int]) -> ListedVideo:
    # The lists mark the placeholders of a template by brackets, and labels.json does not.
    name = normalized_name(template.replace("[", "").replace("]", ""))
    if not identity or name not in indices:
        raise line.error("the id must not be blank, and the template without its brackets be in labels.json")
    return ListedVideo(line, f"{identity}.webm", indices[name], split)
