import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen
from evclip_ray.models.methods import METHODS, zero_shot
from evclip_ray.models.methods.zero_shot import ZeroShotConfig
from evclip_ray.testing import MethodConformance, find_cases
from evclip_ray.testing.conformance import check_caches


class TestBuiltInMethods(MethodConformance):
    methods = tuple(METHODS)


def test_missing_case_names_the_file_to_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(zero_shot, "METHOD_CASES")
    with pytest.raises(ConfigError, match=r"'zero_shot' has no conformance case.*methods/zero_shot\.py"):
        find_cases(["zero_shot"])


class BrighterConfig(ZeroShotConfig):
    """Declares frame features although its own setting changes them."""

    def build(self, frozen, **keywords):
        method = super().build(frozen, **keywords)
        method.normalization = "imagenet"
        return method


class OtherTextConfig(ZeroShotConfig):
    """Declares class texts although it encodes other texts than those of its template."""

    def build(self, frozen, **keywords):
        names = [name.upper() for name in keywords.pop("class_names")]
        return super().build(frozen, class_names=names, **keywords)


@pytest.mark.parametrize("kind", [BrighterConfig, OtherTextConfig])
def test_untrue_declarations_are_found(kind, frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    check_caches(ZeroShotConfig(), frozen, monkeypatch)
    with torch.no_grad(), pytest.raises(AssertionError):
        check_caches(kind(), frozen, monkeypatch)
