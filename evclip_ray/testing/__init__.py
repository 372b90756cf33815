"""Conformance suite for methods, for use in the tests of any package. It needs pytest.

Example: a package that registers the method "clip_lora" tests it with

    from evclip_ray.testing import MethodConformance

    class TestCLIPLoRA(MethodConformance):
        methods = ("clip_lora",)

The module of the method lists the configurations to test in `METHOD_CASES`, a tuple of `MethodCase`:

    METHOD_CASES = (MethodCase(num_trainable=1536, needs_vit=True),)
"""

import pytest

# Without it, a failing assertion of the suite would not show the values that it compared.
pytest.register_assert_rewrite("evclip_ray.testing.conformance")

from evclip_ray.models.methods.base import MethodCase  # noqa: E402
from evclip_ray.testing.cases import (  # noqa: E402
    CLASSES,
    NamedCase,
    find_cases,
    load_networks,
    random_videos,
    total_loss,
    train,
)
from evclip_ray.testing.conformance import MethodConformance  # noqa: E402

__all__ = [
    "CLASSES",
    "MethodCase",
    "MethodConformance",
    "NamedCase",
    "find_cases",
    "load_networks",
    "random_videos",
    "total_loss",
    "train",
]
