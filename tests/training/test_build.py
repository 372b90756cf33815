import logging
from urllib.error import URLError

import huggingface_hub
import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.training import build
from evclip_ray.training.build import check_downloads
from evclip_ray.training.experiment import ExperimentConfig


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("has", [True, False])
def test_emulated_bfloat16_warns_once(precision, has, monkeypatch, caplog):
    monkeypatch.setattr(build, "has_bfloat16", lambda: has)
    build._warn_of_emulation.cache_clear()
    experiment = ExperimentConfig.load({"data": {"manifest": "videos.csv"}, "precision": precision})
    with caplog.at_level(logging.WARNING):
        dtypes = {build.autocast_dtype(experiment, torch.device("cpu")) for _ in range(3)}
    assert dtypes == {torch.bfloat16 if precision == "bfloat16" else None}
    warnings = [record for record in caplog.records if "emulates them" in record.getMessage()]
    assert len(warnings) == (precision == "bfloat16" and not has)


@pytest.mark.parametrize(
    ("method", "precision", "device", "expected"),
    [
        ("ev_clip", "auto", "cuda", torch.bfloat16),
        ("ev_clip", "float32", "cuda", torch.float32),
        ("ev_clip", "bfloat16", "cpu", torch.float32),
        # It trains a copy of the towers, whose start must not be rounded.
        ("fine_tune", "auto", "cuda", torch.float32),
    ],
)
def test_frozen_networks_are_rounded_on_a_gpu_alone(method, precision, device, expected):
    settings = {"data": {"manifest": "videos.csv"}, "method": {"name": method}, "precision": precision}
    assert build.network_dtype(ExperimentConfig.load(settings), torch.device(device)) == expected


def test_unreachable_weights_are_found_before_videos_are_decoded(make_experiment, monkeypatch, tmp_path):
    def check(**settings):
        check_downloads([make_experiment(**settings)])

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    check()
    sizes = {"view.height": 256, "view.width": 256}
    with pytest.raises(ConfigError, match=r"backbone RN50: the weights 'openai' are not on .*127\.0\.0\.1:9"):
        check(**sizes, **{"backbone.name": "RN50", "backbone.pretrained": None})

    def refused(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr("evclip_ray.models.downloads.urlopen", refused)
    encoder = {"method.video_encoder.name": "swin3d_t", "method.video_encoder.weights": "kinetics400"}
    with pytest.raises(ConfigError, match=r"video encoder swin3d_t: .*\(https://.*no network"):
        check(**encoder)
    # Weights on this machine need no network.
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "swin3d_t-7615ae03.pth").touch()
    check(**encoder)
