import dataclasses

import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen
from evclip_ray.models.layers.class_text import class_texts
from evclip_ray.models.methods import METHODS
from evclip_ray.models.methods.settings import zero_shot
from evclip_ray.models.methods.zero_shot import ZeroShot, ZeroShotConfig
from evclip_ray.testing import CLASSES, MethodConformance, find_cases, random_videos
from evclip_ray.testing.conformance import check_caches, check_last_product


class TestBuiltInMethods(MethodConformance):
    methods = tuple(METHODS)


def test_missing_case_names_the_file_to_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(zero_shot, "METHOD_CASES")
    with pytest.raises(
        ConfigError, match=r"'zero_shot' has no conformance case.*methods/settings/zero_shot\.py"
    ):
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


class RoundedLogits(ZeroShot):
    def forward(self, batch):
        output = super().forward(batch)
        return dataclasses.replace(output, logits=output.logits.bfloat16())


class RoundedAndWidened(ZeroShot):
    def forward(self, batch):
        output = super().forward(batch)
        return dataclasses.replace(output, logits=output.logits.bfloat16().float())


class RoundedCosines(ZeroShot):
    def forward(self, batch):
        output = super().forward(batch)
        cosines = output.video_features @ self.text_features.T
        return dataclasses.replace(output, logits=self.frozen.clip.logit_scale * cosines.float())


@pytest.mark.parametrize("kind", [RoundedLogits, RoundedAndWidened, RoundedCosines])
def test_rounded_logits_are_found(kind: type[ZeroShot], frozen: Frozen) -> None:
    texts = frozen.clip.encode_text(class_texts(CLASSES, "a {}."))
    batch = random_videos(3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        method = ZeroShot(frozen, text_features=texts)
        check_last_product(method, method(batch))
        method = kind(frozen, text_features=texts)
        with pytest.raises(AssertionError, match="bfloat16"):
            check_last_product(method, method(batch))
