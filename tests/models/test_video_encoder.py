import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import video

from evclip_ray.config import ConfigError
from evclip_ray.models.video_encoder import (
    VIDEO_ENCODERS,
    FrozenVideoEncoder,
    find_encoder_of,
    load_video_encoder,
    map_size,
    torchvision_names,
    video_encoder_from_state,
)


@pytest.fixture
def encoder() -> FrozenVideoEncoder:
    return load_video_encoder("swin3d_debug", "random")


def omnivore_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply the inverse of the mapping under test and add the other tensors of an Omnivore trunk."""
    renamed = {"depth_patch_embed.proj.weight": torch.zeros(1)}
    for key, value in state.items():
        stage = re.match(r"features\.(\d)\.", key)
        if stage:
            part = "downsample" if int(stage[1]) % 2 else "blocks"
            key = key.replace(stage[0], f"layers.{int(stage[1]) // 2}.{part}.", 1)
        renamed[key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")] = value
    return renamed


def nano_state(window: tuple[int, int, int] = (8, 7, 7)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    state = VIDEO_ENCODERS["swin3d_nano"].build(window).state_dict()
    return {
        key: torch.randn(value.shape, generator=generator) * 0.1 if value.is_floating_point() else value
        for key, value in state.items()
    }


@pytest.mark.parametrize("name", ["swin3d_t", "swin3d_s", "swin3d_b"])
def test_rows_are_torchvision_networks_without_classifier(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(video, name)().state_dict()
        ours = VIDEO_ENCODERS[name].build().state_dict()
    assert {key: value.shape for key, value in theirs.items() if not key.startswith("head.")} == {
        key: value.shape for key, value in ours.items()
    }
    assert VIDEO_ENCODERS[name].dim == ours["norm.weight"].shape[0]


def test_map_is_the_normalised_last_stage(encoder: FrozenVideoEncoder, pixels: Tensor) -> None:
    video_map = encoder(encoder.prepare(pixels))
    assert video_map.shape == (3, encoder.dim, 4, *map_size(encoder.image_size))
    # Freshly made, the norm's weights are ones and zeros: every position has mean 0 and variance 1.
    torch.testing.assert_close(video_map.mean(1), torch.zeros(3, 4, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(video_map.var(1, unbiased=False), torch.ones(3, 4, 2, 2), atol=1e-2, rtol=0)


@pytest.mark.parametrize("side", [64, 100, 224])
def test_map_size_matches_the_map(encoder: FrozenVideoEncoder, side: int) -> None:
    assert encoder(torch.rand(1, 2, 3, side, side)).shape[-2:] == map_size(side)


def test_odd_number_of_frames_is_refused(encoder: FrozenVideoEncoder) -> None:
    with pytest.raises(ValueError, match="T must be even, got 7"):
        encoder(torch.rand(1, 7, 3, 64, 64))


def test_drop_path_stays_off_after_train(encoder: FrozenVideoEncoder, pixels: Tensor) -> None:
    images = encoder.prepare(pixels)
    before = encoder(images)
    nn.Sequential(encoder).train()
    assert torch.equal(encoder(images), before)
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_encoder_is_loaded_once_per_process_and_precision(pixels: Tensor) -> None:
    encoder = load_video_encoder("swin3d_debug", weights="random")
    assert load_video_encoder("swin3d_debug", "random") is encoder
    assert encoder.is_random
    half = load_video_encoder("swin3d_debug", "random", dtype=torch.bfloat16)
    assert half(half.prepare(pixels)).dtype == torch.bfloat16


def test_omnivore_weights_give_the_map_of_torchvision_names() -> None:
    state = nano_state()
    ours = video_encoder_from_state(state, "swin3d_nano", weights="test")
    theirs = video_encoder_from_state(omnivore_names(state), "swin3d_nano", weights="test")
    images = torch.rand(1, 8, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))
    assert torchvision_names(omnivore_names(state)).keys() == torchvision_names(state).keys()


def test_window_of_16_frame_pairs_follows_from_the_weights() -> None:
    wide = nano_state(window=(16, 7, 7))
    encoder = video_encoder_from_state(omnivore_names(wide), "swin3d_nano", weights="test")
    assert encoder.network.features[0][0].attn.window_size == [16, 7, 7]
    # Up to 16 frames it is the network whose table holds the middle of the wide one.
    middle = {
        key: value.view(31, 169, -1)[8:23].flatten(0, 1) if key.endswith("bias_table") else value
        for key, value in wide.items()
        if not key.endswith("index")
    }
    cropped = video_encoder_from_state(middle, "swin3d_nano", weights="test")
    short, long = torch.rand(1, 16, 3, 64, 64), torch.rand(1, 32, 3, 64, 64)
    torch.testing.assert_close(encoder(short), cropped(short))
    assert not torch.allclose(encoder(long), cropped(long))


def test_weights_are_read_from_an_omnivore_file(tmp_path: Path) -> None:
    state = nano_state()
    path = tmp_path / "swin_omnivore.torch"
    torch.save({"trunk": omnivore_names(state), "heads": {"video.1.weight": torch.zeros(1)}}, path)
    encoder = load_video_encoder("swin3d_nano", str(path))
    assert encoder.weights.startswith("file:")
    assert torch.equal(encoder.network.norm.weight, state["norm.weight"])


def test_weights_are_read_from_a_torchvision_file(tmp_path: Path) -> None:
    state = nano_state() | {"head.weight": torch.zeros(400, 128), "head.bias": torch.zeros(400)}
    torch.save(state, tmp_path / "swin3d.pth")
    encoder = load_video_encoder("swin3d_nano", str(tmp_path / "swin3d.pth"))
    assert torch.equal(encoder.network.norm.weight, state["norm.weight"])


def test_wrong_file_names_the_misfits(tmp_path: Path) -> None:
    state = nano_state() | {"foreign": torch.zeros(1), "norm.bias": torch.zeros(3)}
    del state["norm.weight"]
    torch.save(state, tmp_path / "wrong.pth")
    expected = (
        r"wrong\.pth: does not contain the weights of swin3d_nano: 1 missing \(norm\.weight\); "
        r"1 unexpected \(foreign\); 1 of another size \(norm\.bias\)"
    )
    with pytest.raises(ConfigError, match=expected):
        load_video_encoder("swin3d_nano", str(tmp_path / "wrong.pth"))


def test_find_encoder_of_returns_the_row_of_a_state_dict() -> None:
    with torch.device("meta"):
        state = VIDEO_ENCODERS["swin3d_b"].build((16, 7, 7)).state_dict()
    assert find_encoder_of(omnivore_names(state)) == "swin3d_b"
    with pytest.raises(ConfigError, match="contains no known video encoder"):
        find_encoder_of({"weight": torch.zeros(1)})


def test_unknown_names_and_weights_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'swin3d_x' is unknown; did you mean 'swin3d_"):
        load_video_encoder("swin3d_x")
    with pytest.raises(
        ConfigError, match=r"unknown weights 'imagenet'. Give a local file or one of kinetics400, random"
    ):
        load_video_encoder("swin3d_t", "imagenet")
    with pytest.raises(
        ConfigError, match=r"unknown weights 'kinetics400'. Give a local file or one of random"
    ):
        load_video_encoder("swin3d_debug")


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    expected = (
        r"'kinetics400' are not on this .*\(https://.*no network.*backbone.pretrained and method.video_enc"
    )
    with pytest.raises(ConfigError, match=expected):
        load_video_encoder("swin3d_t")
