"""Copy of a checkpoint for other people: without the places of its videos and files on this machine.

`config.json` names the list of the training videos and local weight files, and `rows.parquet` the path of
every video. The copy has neither. A file keeps its name, so that its user knows what to give.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.artifacts import read_json, write_json
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.data.storage import is_uri
from evclip_ray.deploy.digests import CARD, DIGESTS, EXPORTS, is_safe, write_digests
from evclip_ray.metrics.calibration import FILE as CALIBRATION
from evclip_ray.training.checkpoint import ADAPTER, CONFIG, ROWS
from evclip_ray.training.checksums import CHECKSUMS, write_checksums

Rows = Literal["digests", "none", "paths"]
"""What a copy has of the record of the training videos: no paths, nothing, or the whole record."""

NOT_SHARED = "(training videos, not shared)"
"""Value of `data.manifest` in a copy. It is no path that exists, so that nothing is taken for the list."""

LOADED = (ADAPTER, CONFIG, CHECKSUMS, CALIBRATION, ROWS)
"""Files that loading a shared checkpoint reads. No other file is downloaded."""

_FILE_SETTINGS = ("pretrained", "weights", "descriptions", "file")
_COLUMNS = ("path_column", "label_column", "split_column", "group_column")
_EXPORTED = (".onnx", ".pt2")
# Description, class texts and large weights. The comparison with PyTorch, `.parity.json`, names videos.
_COMPANIONS = (".json", ".texts.safetensors", ".data")


@dataclasses.dataclass(frozen=True)
class SharedCopy:
    """Files of a copy, and what its config lacks.

    Attributes:
        names: Names of the files, the list of digests last.
        removed: Settings whose value was removed or cut to a file name, such as "data.manifest".
        needed_files: Settings that name a file which a user of the copy must give, with its name.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...]
    needed_files: dict[str, str]


def write_shared_copy(
    checkpoint: Path,
    folder: Path,
    *,
    card: Callable[[Mapping[str, Any]], str],
    rows: Rows = "digests",
    exports: Sequence[Path] = (),
) -> SharedCopy:
    """Copy the files of a checkpoint that others need.

    Args:
        checkpoint: Folder of the checkpoint.
        folder: Empty folder of the copy.
        card: Returns the model card for the config of the copy.
        rows: Form of the record of the training videos.
        exports: Exported models, which are copied to `exports/` with the files that belong to them.

    Raises:
        ConfigError: The name or the kind of an exported file is not supported.
    """
    record, removed = without_places(read_json(checkpoint / CONFIG))
    shutil.copyfile(checkpoint / ADAPTER, folder / ADAPTER)
    write_json(folder / CONFIG, record)
    # The calibration may be fitted again after a download, so no checksum is written for it.
    write_checksums(folder, left_out=[])
    if (checkpoint / CALIBRATION).is_file():
        shutil.copyfile(checkpoint / CALIBRATION, folder / CALIBRATION)
    if rows != "none" and (checkpoint / ROWS).is_file():
        if rows == "paths":
            shutil.copyfile(checkpoint / ROWS, folder / ROWS)
        else:
            without_paths(RowRecord.read(checkpoint / ROWS)).write(folder / ROWS)
    for path in exports:
        _copy_export(path, folder)
    listed = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_digests(folder, listed)
    (folder / CARD).write_text(card(record), encoding="utf-8")
    needed = {name: value for name, value in _files_of(record["experiment"]).items() if name in removed}
    return SharedCopy((*listed, CARD, DIGESTS), tuple(removed), needed)


def without_places(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the `config.json` of a checkpoint without places on this machine.

    Returns:
        The config, and the dotted paths of the settings that changed.
    """
    experiment = dict(record["experiment"])
    data, removed = _shared_data(experiment["data"])
    shared = {
        name: _shared(value, name, name, removed) for name, value in experiment.items() if name != "data"
    }
    shared = {"data": _shared(data, "data", "data", removed), **shared}
    result = {**record, "experiment": shared}
    if "source" in record:
        result["source"] = _shared(record["source"], "source", "source", removed)
    return result, removed


def without_paths(record: RowRecord) -> RowRecord:
    """Return the videos that trained and selected a checkpoint with their content, without paths and groups.

    An evaluation finds these videos by their content in any list. Test videos are left out.
    """
    used = record.table.filter(pc.is_valid(record.table["use"]))
    names = [f"{use}-{number:06d}" for number, use in enumerate(used["use"].to_pylist())]
    none = pa.nulls(len(used), pa.string())
    replaced = {"path": pa.array(names, pa.string()), "group": none, "version": none}
    for name, column in replaced.items():
        used = used.set_column(used.column_names.index(name), name, column)
    return RowRecord(used, Path(NOT_SHARED), NOT_SHARED, record.legacy)


def _shared_data(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the data section without the list of videos and what belongs to this list alone."""
    if data.get("manifest") is None:
        return dict(data), []
    shared = {name: value for name, value in data.items() if name not in _COLUMNS}
    removed = ["data.manifest", *(f"data.{name}" for name in _COLUMNS if data.get(name) is not None)]
    shared["manifest"] = NOT_SHARED
    if data.get("root") is not None:
        shared["root"] = None
        removed.append("data.root")
    # A file of class names; the config has the classes themselves.
    if data.get("classes") not in (None, "base", "novel"):
        shared["classes"] = None
        removed.append("data.classes")
    return shared, removed


def _shared(value: Any, name: str, path: str, removed: list[str]) -> Any:
    """Return a value in which places are cut to file names. Adds the paths of changed settings."""
    if isinstance(value, Mapping):
        return {key: _shared(each, key, f"{path}.{key}", removed) for key, each in value.items()}
    if isinstance(value, list):
        return [_shared(each, name, path, removed) for each in value]
    if isinstance(value, str) and _is_place(value, name):
        removed.append(path)
        # The class for Windows splits at both kinds of slashes.
        return PureWindowsPath(value).name
    return value


def _is_place(value: str, name: str) -> bool:
    # A template is an English sentence with a gap.
    if "{}" in value:
        return False
    has_folders = "/" in value or "\\" in value
    is_local = value.startswith(("/", "~", "..", "\\")) or PureWindowsPath(value).drive != ""
    return is_uri(value) or is_local or (has_folders and name in _FILE_SETTINGS)


def _files_of(value: Any, path: str = "") -> dict[str, str]:
    """Return the settings of a tree that name files: dotted path -> value."""
    if not isinstance(value, Mapping):
        name = path.rpartition(".")[2]
        return {path: value} if isinstance(value, str) and name in _FILE_SETTINGS else {}
    files: dict[str, str] = {}
    for key, each in value.items():
        files |= _files_of(each, f"{path}.{key}".lstrip("."))
    return files


def _copy_export(path: Path, folder: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"--export {path}: is not a file. Give the model that evclip-ray export wrote.")
    if path.suffix not in _EXPORTED or not is_safe(path.name):
        raise ConfigError(
            f"--export {path}: must be a {' or '.join(_EXPORTED)} file whose name has only letters, digits, "
            "and _ . + -"
        )
    (folder / EXPORTS).mkdir(exist_ok=True)
    for companion in ("", *_COMPANIONS):
        source = path.with_name(path.name + companion)
        if source.is_file():
            shutil.copyfile(source, folder / EXPORTS / source.name)
