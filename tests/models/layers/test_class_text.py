import pytest
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.class_text import class_logits, class_texts, mean_feature
from evclip_ray.models.methods.zero_shot import ZeroShotConfig


def test_names_fill_the_gap_unchanged() -> None:
    assert class_texts(["ride a {bike}", "dive"], "A video of {}.") == [
        "A video of ride a {bike}.",
        "A video of dive.",
    ]


def test_equal_class_names_are_refused() -> None:
    with pytest.raises(ValueError, match="given more than once: 'dive', 'run'"):
        class_texts(["dive", "run", "walk", "run", "dive"], "{}")


@pytest.mark.parametrize("template", ["A video.", "{} and {}"])
def test_template_without_one_gap_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"template: a template must contain \{\} exactly once"):
        ZeroShotConfig.load({"template": template})


def test_logits_under_autocast_are_float32_cosines(clip: FrozenCLIP) -> None:
    video = mean_feature(torch.randn(2, 8, 64))
    text = mean_feature(torch.randn(5, 1, 64))
    expected = 100 * torch.nn.functional.cosine_similarity(video[:, None], text[None], dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = class_logits(clip, video, text)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_logit_bias_is_added(clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    features: Tensor = mean_feature(torch.randn(2, 1, 64))
    plain = class_logits(clip, features, features)
    monkeypatch.setattr(clip, "logit_bias", -10.0)
    torch.testing.assert_close(class_logits(clip, features, features), plain - 10)
