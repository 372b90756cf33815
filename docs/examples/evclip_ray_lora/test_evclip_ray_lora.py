"""Conformance suite on every case of CLIP-LoRA."""

from evclip_ray.testing import MethodConformance


class TestCLIPLoRA(MethodConformance):
    """All cases of `METHOD_CASES`."""

    methods = ("clip_lora",)
