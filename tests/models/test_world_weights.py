import hashlib
import json

import pytest
import safetensors.torch
import torch

from evclip_ray.config import ConfigError
from evclip_ray.models import clip, video_encoder, world_weights
from evclip_ray.models.clip import load_clip
from evclip_ray.models.clip_weights import find_weights
from evclip_ray.models.open_clip_models import world_model
from evclip_ray.models.video_encoder import VIDEO_ENCODERS, load_video_encoder
from evclip_ray.models.world_weights import WorldTokenizer, world_origin

WORDS = ["a", "arm", "left", "of", "raising", "the", "video"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Package data with random weights."""
    torch.manual_seed(0)
    states = {
        "world-xs": world_model("world-xs", WorldTokenizer(WORDS).vocab_size).state_dict(),
        "swin3d_world": {
            **VIDEO_ENCODERS["swin3d_world"].build().state_dict(),
            "heads.action.weight": torch.zeros(3, 96),
        },
    }
    for name, state in states.items():
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        safetensors.torch.save_file(half, tmp_path / f"{name}.safetensors")
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    (tmp_path / "card.json").write_text(json.dumps({"files": digests}))
    monkeypatch.setattr(world_weights, "WEIGHTS_FOLDER", tmp_path)
    cached = (clip._load, clip.tokenizer_of, video_encoder._load)
    for each in cached:
        each.cache_clear()
    yield tmp_path
    for each in cached:
        each.cache_clear()


def test_default_weights_of_a_world_row_are_the_package_file(weights) -> None:
    loaded = load_clip("world-xs")
    assert loaded.weights == world_origin("world-xs") == find_weights("world-xs", "world").identity
    assert loaded.dtype == torch.float32
    assert not loaded.is_random
    frames = torch.rand(1, 2, 3, 96, 96)
    assert loaded.encode_frames(loaded.prepare(frames)).isfinite().all()
    assert loaded.encode_text(["A video of raising the left arm."]).isfinite().all()


def test_random_weights_of_a_world_row_need_their_name(weights) -> None:
    assert load_clip("world-xs", "random").is_random


def test_video_encoder_of_the_world_has_the_window_of_its_row(weights) -> None:
    encoder = load_video_encoder("swin3d_world", "world")
    assert encoder.weights == world_origin("swin3d_world")
    assert encoder.network.features[0][0].attn.window_size == [4, 6, 6]
    images = encoder.prepare(torch.rand(1, 8, 3, 96, 96))
    assert encoder(images).shape == (1, 96, 4, 6, 6)
    assert encoder.stride == 16


def test_flipped_byte_is_refused_with_both_digests(weights) -> None:
    path = weights / "world-xs.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"world-xs\.safetensors: the SHA-256 is .* reinstall"):
        load_clip("world-xs")


def test_missing_file_names_the_fix(weights) -> None:
    (weights / "swin3d_world.safetensors").unlink()
    with pytest.raises(ConfigError, match="Reinstall evclip-ray"):
        load_video_encoder("swin3d_world", "world")


def test_damaged_card_names_the_fix(weights) -> None:
    (weights / "card.json").write_text("{")
    with pytest.raises(ConfigError, match=r"card\.json: cannot be read .* Reinstall"):
        world_origin("world-xs")


def test_unknown_word_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown word 'rising' .*nearest: 'raising'.*ViT-B-16"):
        WorldTokenizer(WORDS)(["rising the left arm"], context_length=24)


def test_tokenizer_ignores_case_and_signs() -> None:
    tokens = WorldTokenizer(WORDS)(["A video, of the ARM.", "a video of the_arm"], context_length=8)
    assert tokens.tolist() == [[8, 1, 7, 4, 6, 2, 9, 0]] * 2


def test_end_token_is_the_largest_also_of_a_cut_text() -> None:
    tokens = WorldTokenizer(WORDS)(["a a a a", "a"], context_length=4)
    assert tokens.tolist() == [[8, 1, 1, 9], [8, 1, 9, 0]]
    assert tokens.argmax(1).tolist() == [3, 2]


def test_long_text_is_refused(weights) -> None:
    with pytest.raises(ValueError, match="longer than the 24 tokens"):
        load_clip("world-xs").encode_text(["a " * 30])
