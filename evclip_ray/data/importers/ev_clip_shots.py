"""Importer of EV-CLIP's published few-shot lists: pickles of one record class only."""

import collections
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from evclip_ray.data.importers.annotation_files import (
    AnnotationError,
    Line,
    class_index,
    find_annotation_file,
    read_bytes,
    read_table,
)
from evclip_ray.data.importers.class_names import ordered_classes, read_class_names
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report
from evclip_ray.data.importers.path_label import ListFiles, listed_rows, path_label
from evclip_ray.data.storage import Place

_RECORD = ("dassl.data.datasets.base_dataset", "Datum_video")
_SPLITS = frozenset(("train", "val", "test"))
# EPIC: <participant>/rgb_frames/<video>+<start frame>+<stop frame>, frames from 1, the stop one included.
_EPIC = re.compile(r"(?:.*/)?(?P<video>P\d+_\d+)\+(?P<start>\d+)\+(?P<stop>\d+)", re.ASCII)


class Shot(NamedTuple):
    """One record of a pickle. `line`: the pickle and the number of the record in it."""

    line: Line
    path: str
    label: int
    class_name: str
    split: str


def import_ev_clip_shots(
    root: Place,
    *,
    shots: Path,
    labels: Path | None = None,
    lists: Path | None = None,
    val: Path | None = None,
    test: Path | None = None,
    frame_rates: Path | None = None,
) -> ImportReport:
    """Import the videos of a pickle such as `shot_16-seed_1.pkl`, and of text lists for the other splits.

    Args:
        root: Folder of the videos.
        shots: Pickle of the training videos.
        labels: Class names, see `read_class_names`. By default, they come from the pickle, which must then
            have one name per class. EPIC's pickles have narrated verbs and need verb_classes.csv.
        lists: Folder that all other paths are relative to.
        val: List of the validation videos as in `path_label`.
        test: List of the test videos as in `path_label`.
        frame_rates: EPIC's video_info.csv. It converts frame numbers to seconds if videos replace folders of
            frames.

    Raises:
        AnnotationError: A file is missing or invalid, or the pickle contains other objects than such records.
    """
    folder = [lists or Path()]
    path = find_annotation_file(folder, str(shots))
    shots_read = read_shots(path)
    classes = (
        read_class_names(find_annotation_file(folder, str(labels))) if labels else _names_in(path, shots_read)
    )
    rates = _frame_rates(find_annotation_file(folder, str(frame_rates))) if frame_rates else {}
    rows = [_listed(shot, len(classes), rates) for shot in shots_read]
    rows += listed_rows(ListFiles(None, val, test), lists, len(classes), path_label)
    return build_report(rows, classes, root=root, source="ev_clip_shots", groups_from_names=True, frames=True)


def read_shots(path: Path) -> list[Shot]:
    """Return the records of a pickle, `{"train": [Datum_video, ...]}`, without executing its code.

    Raises:
        AnnotationError: The file is missing or damaged, refers to other names than the record class, or
            contains records of another form.
    """
    data = read_bytes(path)
    try:
        content = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # Damaged bytes can raise any exception, and all have the same meaning.
        raise AnnotationError(
            f"{path}: not a few-shot list of EV-CLIP ({error}); download it again"
        ) from error
    if not isinstance(content, dict) or not content or not content.keys() <= _SPLITS:
        raise AnnotationError(f"{path}: must map train (val, test) to records; download it again")
    return [
        _shot(path, number, record, split)
        for split, records in content.items()
        for number, record in enumerate(_as_list(path, records), start=1)
    ]


class _Unpickler(pickle.Unpickler):
    """Unpickler that accepts the record class only, as a class without methods."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        # Each file has its own class, so that a crafted file cannot change it for the next one.
        self._record = type("Datum_video", (), {})

    # Unpickling can only reach code through this method. All other opcodes build plain data or call what it
    # returned.
    def find_class(self, module: str, name: str) -> Any:
        """Return the record class.

        Raises:
            UnpicklingError: The pickle refers to another name.
        """
        if (module, name) != _RECORD:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no list of videos needs")
        return self._record


def _as_list(path: Path, records: Any) -> list[Any]:
    if not isinstance(records, list):
        raise AnnotationError(f"{path}: each split must hold a list of records; download it again")
    return records


def _shot(path: Path, number: int, record: Any, split: str) -> Shot:
    # The pickle fills the `__dict__` of a record directly. No method of a class runs.
    fields = getattr(record, "__dict__", {})
    video, label, name = (fields.get(key) for key in ("_impath", "_label", "_classname"))
    line = Line(path, number, video if type(video) is str else "", "record")
    # Exact types, because a crafted file can contain subclasses.
    if type(video) is not str or type(label) is not int or type(name) is not str:
        raise line.error("a record must have a path, a class id and a class name")
    return Shot(line, video, label, name, split)


def _names_in(path: Path, shots: list[Shot]) -> tuple[str, ...]:
    names: dict[int, set[str]] = collections.defaultdict(set)
    for shot in shots:
        names[shot.label].add(shot.class_name)
        if len(names[shot.label]) > 1:
            listed = ", ".join(sorted(names[shot.label]))
            raise shot.line.error(
                f"class {shot.label} has several names ({listed}); give a table with labels=FILE"
            )
    lines = {shot.label: shot.line for shot in shots}
    named = ((lines[number], number, min(spellings)) for number, spellings in names.items())
    return ordered_classes(path, named, first=0)


def _frame_rates(path: Path) -> dict[str, float]:
    """Return video -> frames per second from `video_id,duration,fps,resolution`."""

    def rates() -> Iterator[tuple[str, float]]:
        for line, cells in read_table(path, ("video_id", "fps")):
            try:
                rate = float(cells["fps"])
            except ValueError:
                rate = 0.0
            if not 0 < rate < 1e4:
                raise line.error(f"fps must be a number above 0, got {cells['fps']!r}")
            yield cells["video_id"], rate

    return dict(rates())


def _listed(shot: Shot, num_classes: int, rates: dict[str, float]) -> ListedVideo:
    label = class_index(shot.line, str(shot.label), num_classes)
    match = _EPIC.fullmatch(shot.path)
    if match is None:
        return ListedVideo(shot.line, shot.path, label, shot.split)
    rate = rates.get(match["video"])
    # Frames start to stop, counted from 1, are the half-open part [start - 1, stop) counted from 0.
    start, stop = int(match["start"]) - 1, int(match["stop"])
    return ListedVideo(
        shot.line,
        f"{match['video']}.MP4",
        label,
        shot.split,
        group=match["video"],
        start_seconds=start / rate if rate else None,
        end_seconds=stop / rate if rate else None,
        start_frame=start,
        end_frame=stop,
    )
