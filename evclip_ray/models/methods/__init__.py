"""Registry of methods: built-in ones, and those that installed packages register.

A built-in method is a file here, one with its settings in `settings/`, and a line in `METHODS`. The settings
import no PyTorch, so that a wrong one is reported at once. Another package registers a method
with an entry point of the group `evclip_ray.methods`, in its pyproject.toml:

    [project.entry-points."evclip_ray.methods"]
    clip_lora = "evclip_ray_lora:CLIPLoRAConfig"
"""

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evclip_ray.config import Config, ConfigError, nearest

METHODS = {
    "zero_shot": "evclip_ray.models.methods.settings.zero_shot:ZeroShotConfig",
    "ev_clip": "evclip_ray.models.methods.settings.ev_clip:EVCLIPConfig",
    "ez_clip": "evclip_ray.models.methods.settings.ez_clip:EZCLIPConfig",
    "motion_prompts": "evclip_ray.models.methods.settings.motion_prompts:MotionPromptsConfig",
    "coop": "evclip_ray.models.methods.settings.coop:CoOpConfig",
    "linear_probe": "evclip_ray.models.methods.settings.linear_probe:LinearProbeConfig",
    "prototype": "evclip_ray.models.methods.settings.prototype:PrototypeConfig",
    "fine_tune": "evclip_ray.models.methods.settings.fine_tune:FineTuneConfig",
    "st_adapter": "evclip_ray.models.methods.settings.st_adapter:STAdapterConfig",
    "aim": "evclip_ray.models.methods.settings.aim:AIMConfig",
}
"""Name of a built-in method -> `module:class` of its config. Imported on first use."""

ENTRY_POINT_GROUP = "evclip_ray.methods"


@functools.cache
def third_party_methods() -> dict[str, EntryPoint]:
    """Return the methods that installed packages register, by name.

    The environment is scanned once per process: a package that is installed later needs a new process.

    Raises:
        ConfigError: An entry point uses the name of a built-in method or of another package's method.
    """
    methods: dict[str, EntryPoint] = {}
    # Each distribution appears once per path entry; the set removes duplicates of an editable install.
    for point in sorted(set(entry_points(group=ENTRY_POINT_GROUP)), key=lambda point: point.name):
        owner = "evclip-ray itself" if point.name in METHODS else None
        if owner is None and point.name in methods:
            owner = _distribution(methods[point.name])
        if owner is not None:
            raise ConfigError(
                f"method {point.name!r} of {_distribution(point)}: {owner} has a method of this name; "
                "uninstall one of them or rename its entry point"
            )
        methods[point.name] = point
    return methods


def find_method(name: str) -> type[Any]:
    """Return the config class of the method called `name`, a subclass of `MethodConfig`.

    Built-in methods are found without reading the entry points of installed packages.

    Raises:
        ConfigError: The name is unknown, or its entry point cannot be imported.
    """
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        built_in: type[Any] = getattr(importlib.import_module(module), attribute)
        return built_in
    methods = third_party_methods()
    if name not in methods:
        raise ConfigError(f"method {name!r} is unknown; {nearest(name, [*METHODS, *methods])}")
    return _load(methods[name])


def _load(point: EntryPoint) -> type[Any]:
    where = f"method {point.name!r} of {_distribution(point)}: entry point {point.value!r}"
    try:
        kind = point.load()
    except Exception as error:
        # Any error of a foreign module may surface here; the user needs the package to blame, in one line.
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{where} cannot be imported ({type(error).__name__}: {reason}); repair or uninstall the package"
        ) from error
    # MethodConfig cannot be named here: base.py imports this module.
    if not (isinstance(kind, type) and issubclass(kind, Config) and hasattr(kind, "build")):
        raise ConfigError(f"{where} must be a subclass of MethodConfig, got {kind!r}")
    return kind


def _distribution(point: EntryPoint) -> str:
    return "an unknown distribution" if point.dist is None else f"distribution {point.dist.name!r}"
