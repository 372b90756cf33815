"""Folders of videos as a table: `<class>/<video>`, or `<split>/<class>/<video>`."""

import collections
import logging
from pathlib import Path

import pyarrow as pa

from evclip_ray.data.manifest.discovery import find_videos, is_system
from evclip_ray.data.manifest.validation import ManifestError, split_names
from evclip_ray.data.storage import Place
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

_MAX_KINDS = 8
_FOLDERS = "system folder"


def read_folder(folder: Place) -> pa.Table:
    """Return path, label and, if the top folders are splits, split of all videos under a folder.

    Splits are recognised in any case and by synonyms (Training, valid, dev). Files that are no videos are
    counted in a warning.

    Raises:
        ManifestError: There is no video, a video is in no class folder, a class has no video, splits and
            classes are mixed, or a name is not UTF-8.
    """
    left_out = collections.Counter[str]()
    paths = sorted(path for path, _, _ in find_videos(folder, left_out))
    if not paths:
        raise ManifestError(
            f"{folder}: holds no video; it needs folders named by class, with videos in them"
            f"{_listed(left_out, ' (left out: ', ')')}"
        )
    _refuse_names(paths, folder)
    parts = [path.split("/") for path in paths]
    has_splits = _has_splits(folder, sorted({part[0] for part in parts if len(part) > 1}))
    loose = next((path for path, part in zip(paths, parts, strict=True) if len(part) < 2 + has_splits), None)
    if loose is not None:
        raise ManifestError(f"{folder}: {loose} is not in a class folder; move it into one")
    labels = [part[1 if has_splits else 0] for part in parts]
    _refuse_empty_classes(folder, set(labels), has_splits, left_out)
    if left_out := +left_out:
        logger.warning("%s: left out%s", folder, _listed(left_out, " ", ""))
    columns = {"path": paths, "label": labels}
    if has_splits:
        columns["split"] = [split_names(part[0]) or "" for part in parts]
    return pa.table(columns)


def _has_splits(folder: Place, top: list[str]) -> bool:
    splits = [name for name in top if split_names(name)]
    classes = [name for name in top if not split_names(name)]
    # A class can have the name of a split, such as "train" among vehicles: only a person can tell.
    if splits and classes:
        raise ManifestError(
            f"{folder}: {', '.join(splits[:5])} {'are names of splits' if splits[1:] else 'is a split'}, but"
            f" {', '.join(classes[:5])}{', ...' if classes[5:] else ''} {'are' if classes[1:] else 'is'} not."
            " Move the classes into the folders of the splits, or give a list with path,label,split"
        )
    return bool(splits)


def _refuse_empty_classes(
    folder: Place, labels: set[str], has_splits: bool, left_out: dict[str, int]
) -> None:
    # A storage has no empty folders.
    if not isinstance(folder, Path):
        return
    parents = [entry for entry in _folders(folder) if split_names(entry.name)] if has_splits else [folder]
    classes = {entry.name for parent in parents for entry in _folders(parent)}
    empty = sorted(classes - labels)
    if empty:
        raise ManifestError(
            f"{folder}: {len(empty)} of {counted(len(labels) + len(empty), 'class folder')} "
            f"{'holds' if len(empty) == 1 else 'hold'} no video:"
            f" {', '.join(empty[:5])}{', ...' if empty[5:] else ''}; move them out, or add videos"
            f"{_listed(left_out, ' (left out: ', ')')}"
        )


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not is_system(entry.name) and entry.is_dir()]


def _refuse_names(paths: list[str], folder: Place) -> None:
    wrong = [path for path in paths if not _is_utf8(path)]
    if wrong:
        # The bytes that are not UTF-8 as \xe9, as `ls` shows them too.
        shown = wrong[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ManifestError(
            f"{folder}: {len(wrong)} of {counted(len(paths), 'video')} "
            f"{'has a name that is' if len(wrong) == 1 else 'have names that are'} not UTF-8, the first is"
            f" '{shown}'; rename them, for example with convmv -f latin1 -t utf8"
        )


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(left_out: dict[str, int], before: str, after: str) -> str:
    kinds = [(kind, count) for kind, count in collections.Counter(left_out).most_common() if count]
    if not kinds:
        return ""
    texts = [
        counted(count, kind if kind == _FOLDERS else f"{kind} file") for kind, count in kinds[:_MAX_KINDS]
    ]
    if rest := sum(count for _, count in kinds[_MAX_KINDS:]):
        texts.append(counted(rest, "other file"))
    return f"{before}{', '.join(texts)}{after}"
