"""Importers of data sets. To add one, add a file to this package and a line to `DATASETS`."""

import contextlib
import gc
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from evclip_ray.config import ConfigError, nearest
from evclip_ray.data.storage import Place, place

if TYPE_CHECKING:
    from evclip_ray.data.importers.import_report import ImportReport

DATASETS = {
    "ucf101": "evclip_ray.data.importers.ucf101:import_ucf101",
    "hmdb51": "evclip_ray.data.importers.hmdb51:import_hmdb51",
    "arid": "evclip_ray.data.importers.arid:import_arid",
    "egtea": "evclip_ray.data.importers.egtea:import_egtea",
    "epic_kitchens": "evclip_ray.data.importers.epic_kitchens:import_epic_kitchens",
    "ssv2": "evclip_ray.data.importers.ssv2:import_ssv2",
    "kinetics": "evclip_ray.data.importers.kinetics:import_kinetics",
    "path_label": "evclip_ray.data.importers.path_label:import_path_label",
    "mmaction": "evclip_ray.data.importers.mmaction:import_mmaction",
    "ez_clip": "evclip_ray.data.importers.ez_clip:import_ez_clip",
    "ev_clip_shots": "evclip_ray.data.importers.ev_clip_shots:import_ev_clip_shots",
}
"""Name of a data set, or of a format of lists -> module and function. Imported on demand to start fast."""


def import_dataset(name: str, root: Place, **options: Any) -> "ImportReport":
    """Import a data set and return its manifest with a report.

    Args:
        name: Key of `DATASETS`.
        root: Folder or URI of the videos.
        **options: Keyword arguments of the importer. Paths can be strings.

    Raises:
        ConfigError: The name or an option is unknown (the message has the nearest one), or an option is
            missing.
        AnnotationError: See the importer.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r} is unknown; {nearest(name, list(DATASETS))}")
    module, _, attribute = DATASETS[name].partition(":")
    importer = getattr(importlib.import_module(module), attribute)
    # The signature of the importer is the only list of its options.
    known = dict(inspect.signature(importer).parameters)
    known.pop("root")
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}; {nearest(option, list(known))}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"{name} needs the option {option!r}; give it as {option}=VALUE")
    values = {option: _typed(known[option].annotation, value) for option, value in options.items()}
    with _garbage_collection_off():
        report: ImportReport = importer(place(root), **values)
    return report


@contextlib.contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Pause the garbage collector. Rows have no reference cycles, and its scans take a fifth of an import."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _typed(annotation: Any, value: Any) -> Any:
    """Return a string as a path if the option is one."""
    takes_path = annotation is Path or Path in get_args(annotation)
    return Path(value) if takes_path and isinstance(value, str) else value
