"""METHODS: the name of a method -> where its config is. To add one: a file here and a line below."""

import importlib

from evclip_ray.config import ConfigError, nearest
from evclip_ray.models.methods.base import MethodConfig

METHODS = {
    "zero_shot": "evclip_ray.models.methods.zero_shot:ZeroShotConfig",
    "ev_clip": "evclip_ray.models.methods.ev_clip:EVCLIPConfig",
    "ez_clip": "evclip_ray.models.methods.ez_clip:EZCLIPConfig",
    "motion_prompts": "evclip_ray.models.methods.motion_prompts:MotionPromptsConfig",
    "coop": "evclip_ray.models.methods.coop:CoOpConfig",
    "linear_probe": "evclip_ray.models.methods.linear_probe:LinearProbeConfig",
    "prototype": "evclip_ray.models.methods.prototype:PrototypeConfig",
    "fine_tune": "evclip_ray.models.methods.fine_tune:FineTuneConfig",
    "st_adapter": "evclip_ray.models.methods.st_adapter:STAdapterConfig",
    "aim": "evclip_ray.models.methods.aim:AIMConfig",
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
