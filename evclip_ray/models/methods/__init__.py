"""METHODS: the name of a method -> where its config is. To add one: a file here and a line below."""

import importlib

from evclip_ray.config import ConfigError, nearest
from evclip_ray.models.methods.base import MethodConfig

METHODS = {
    "zero_shot": "evclip_ray.models.methods.zero_shot:ZeroShotConfig",
    "ev_clip": "evclip_ray.models.methods.ev_clip:EVCLIPConfig",
}


def find_method(name: str) -> type[MethodConfig]:
    """The config class of the method called `name`.

    Raises:
        ConfigError: unknown name (the nearest is named).
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is unknown; {nearest(name, list(METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[MethodConfig] = getattr(importlib.import_module(module), attribute)
    return found
