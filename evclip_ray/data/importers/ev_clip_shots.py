"""EV-CLIP's published few-shot lists: pickles of one record class, and of nothing else."""

import collections
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from evclip_ray.data.importers.annotation_files import Line, ListError, class_index, find_list, read_table
from evclip_ray.data.importers.class_names import ordered_classes, read_class_names
from evclip_ray.data.importers.import_report import ImportReport, Listed, build_report
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
    root: Place, *, shots: Path, labels: Path | None = None, lists: Path | None = None,
    val: Path | None = None, test: Path | None = None, frame_rates: Path | None = None,
) -> ImportReport:  # fmt: skip
    """The videos of a pickle such as `shot_16-seed_1.pkl`, with text lists for what it does not hold.

    `labels`: class names, see `read_class_names`; without it, the names in the pickle, which must be one
    a class (EPIC's are narrated verbs: give verb_classes.csv). `val`, `test`: lists as in `path_label`.
    `frame_rates`: EPIC's video_info.csv, by which frame numbers become seconds where a video stands for
    its folder of frames. `lists`: the folder that all of these are relative to.

    Raises:
        ListError: a file that is missing or broken; a pickle that holds anything but such records.
    """
    folder = [lists or Path()]
    path = find_list(folder, str(shots))
    found = read_shots(path)
    classes = read_class_names(find_list(folder, str(labels))) if labels else _names_in(path, found)
    rates = _frame_rates(find_list(folder, str(frame_rates))) if frame_rates else {}
    rows = [_listed(shot, len(classes), rates) for shot in found]
    rows += listed_rows(ListFiles(None, val, test), lists, len(classes), path_label)
    return build_report(rows, classes, root=root, source="ev_clip_shots", groups_from_names=True, frames=True)


def read_shots(path: Path) -> list[Shot]:
    """The records of a pickle, `{"train": [Datum_video, ...]}`, without running anything it names.

    Raises:
        ListError: the file is missing or damaged, names anything but the record class, or holds
            records that are no videos.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path}: cannot be read ({error.strerror}); check the path of the list") from None
    try:
        found = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # Damaged bytes raise anything, and all of it means the same.
        raise ListError(f"{path}: not a few-shot list of EV-CLIP ({error}); download it again") from error
    if not isinstance(found, dict) or not found or not found.keys() <= _SPLITS:
        raise ListError(f"{path}: must map train (val, test) to records; download it again")
    return [
        _shot(path, number, record, split)
        for split, records in found.items()
        for number, record in enumerate(_as_list(path, records), start=1)
    ]


class _Unpickler(pickle.Unpickler):
    """Admits the one record class, as a class without any behaviour."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        # Made anew for every file, so that a file cannot change what the next one finds.
        self._record = type("Datum_video", (), {})

    def find_class(self, module: str, name: str) -> Any:
        """The record class.

        Raises:
            UnpicklingError: anything else is asked for.
        """
        if (module, name) != _RECORD:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no list of videos needs")
        return self._record


def _as_list(path: Path, records: Any) -> list[Any]:
    if not isinstance(records, list):
        raise ListError(f"{path}: each split must hold a list of records; download it again")
    return records


def _shot(path: Path, number: int, record: Any, split: str) -> Shot:
    fields = getattr(record, "__dict__", {})
    video, label, name = (fields.get(key) for key in ("_impath", "_label", "_classname"))
    line = Line(path, number, video if type(video) is str else "", "record")
    # Exact types: what a crafted file holds may only look like text.
    if type(video) is not str or type(label) is not int or type(name) is not str:
        raise line.error("a record must have a path, a class id and a class name")
    return Shot(line, video, label, name, split)


def _names_in(path: Path, shots: list[Shot]) -> tuple[str, ...]:
    names: dict[int, set[str]] = collections.defaultdict(set)
    for shot in shots:
        names[shot.label].add(shot.class_name)
        if len(names[shot.label]) > 1:
            told = ", ".join(sorted(names[shot.label]))
            raise shot.line.error(
                f"class {shot.label} has several names ({told}); give a table with labels=FILE"
            )
    lines = {shot.label: shot.line for shot in shots}
    named = ((lines[number], number, min(found)) for number, found in names.items())
    return ordered_classes(path, named, first=0)


def _frame_rates(path: Path) -> dict[str, float]:
    """Video -> frames per second, of `video_id,duration,fps,resolution`."""

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


def _listed(shot: Shot, num_classes: int, rates: dict[str, float]) -> Listed:
    label = class_index(shot.line, str(shot.label), num_classes)
    match = _EPIC.fullmatch(shot.path)
    if match is None:
        return Listed(shot.line, shot.path, label, shot.split)
    rate = rates.get(match["video"])
    start, stop = int(match["start"]) - 1, int(match["stop"])
    return Listed(
        shot.line, f"{match['video']}.MP4", label, shot.split, group=match["video"],
        start_seconds=start / rate if rate else None, end_seconds=stop / rate if rate else None,
        start_frame=start, end_frame=stop,
    )  # fmt: skip
