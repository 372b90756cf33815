import pytest

from evclip_ray.config import ConfigError
from evclip_ray.models.clip import load_clip
from evclip_ray.training import class_text_check
from evclip_ray.training.class_text_check import check_class_texts
from evclip_ray.training.experiment import ExperimentConfig

LONG = "very " * 80 + "long"
MEDIUM = "far " * 65 + "away"


def experiment(method, backbone="debug", **settings):
    data = {"data": {"manifest": "videos.csv"}, "backbone": {"name": backbone, "pretrained": "random"}}
    if method == "ev_clip":
        data["method"] = {"video_encoder": {"name": "swin3d_debug"}}
    overrides = {f"method.{name}": value for name, value in settings.items()}
    return ExperimentConfig.load(data, {"method.name": method, **overrides})


@pytest.mark.parametrize("method", ["coop", "fine_tune", "aim", "ev_clip"])
def test_too_long_class_is_refused_with_tokens_and_limit(method):
    with pytest.raises(ConfigError, match=rf"method {method} on backbone debug: .*very very") as caught:
        check_class_texts([experiment(method)], ["walk", LONG])
    for part in ("77 tokens", "(8", "Shorten the class name"):
        assert part in str(caught.value)


def test_learned_vectors_count_as_tokens():
    check_class_texts([experiment("coop", num_vectors=4)], ["walk", MEDIUM])
    with pytest.raises(
        ConfigError, match="16 learned vectors must fit in debug's context of 77 tokens, got 85"
    ):
        check_class_texts([experiment("coop", num_vectors=16)], ["walk", MEDIUM])


def test_vectors_that_a_mode_does_not_use_do_not_count():
    check_class_texts([experiment("motion_prompts", mode="late", num_vectors=60)], ["walk", MEDIUM])


def test_text_of_zero_shot_clip_is_checked_with_every_run():
    name = "far " * 71 + "away"
    with pytest.raises(ConfigError, match=r"method zero_shot on backbone debug: .*'A video of far"):
        check_class_texts([experiment("coop", num_vectors=1)], [name])


def test_template_counts():
    with pytest.raises(ConfigError, match="the first: 'so so"):
        check_class_texts([experiment("fine_tune", template="so " * 76 + "{}")], ["walk"])


def test_unknown_word_of_the_small_world_is_refused():
    with pytest.raises(ConfigError, match="on backbone world-s: unknown word 'zumba'"):
        check_class_texts([experiment("coop", "world-s")], ["zumba"])


def test_short_names_need_no_tokenizer(monkeypatch):
    monkeypatch.setattr(class_text_check, "tokenizer_of", None)
    check_class_texts([experiment("coop"), experiment("fine_tune")], ["walk", "ApplyEyeMakeup"])


def test_tokens_of_a_text_are_counted_beyond_the_context():
    clip = load_clip("debug", device="meta")
    assert clip.count_tokens("walk") == 3
    assert clip.count_tokens("walk " * 200) == 202
