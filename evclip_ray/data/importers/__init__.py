"""DATASETS: the name of a data set, or of a form of list -> what imports it.

To add one: a file here and a line below.
"""

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


def import_dataset(name: str, root: Place, **options: Any) -> "ImportReport":
    """The manifest of a data set whose videos are under `root`, and what was found on the way.

    `options`: keywords of the importer that `name` stands for; paths may be text.

    Raises:
        ConfigError: unknown name or option (the nearest is named), or a required one is missing.
        ListError: see the importer.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r} is unknown; {nearest(name, list(DATASETS))}")
    module, _, attribute = DATASETS[name].partition(":")
    importer = getattr(importlib.import_module(module), attribute)
    known = dict(inspect.signature(importer).parameters)
    known.pop("root")
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}; {nearest(option, list(known))}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"{name} needs the option {option!r}; give it as {option}=VALUE")
    values = {option: _typed(known[option].annotation, value) for option, value in options.items()}
    with _no_search_for_cycles():
        report: ImportReport = importer(place(root), **values)
    return report


@contextlib.contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Rows hold no cycles: of 650,000 of them, looking for some takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _typed(annotation: Any, value: Any) -> Any:
    """A path that was given as text."""
    takes_path = annotation is Path or Path in get_args(annotation)
    return Path(value) if takes_path and isinstance(value, str) else value
