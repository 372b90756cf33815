import json
import sys
import time
import types

import pytest
import torch
from click.testing import CliRunner
from made_studies import without_stages
from torch import nn

from evclip_ray.cli import main
from evclip_ray.models.clip import load_clip
from evclip_ray.profiling import measured
from evclip_ray.profiling.counted import count_cost
from evclip_ray.profiling.energy import EnergyMeter
from evclip_ray.profiling.flops import PartCounter
from evclip_ray.profiling.measured import measure_cost
from evclip_ray.profiling.memory import peak_bytes
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import ADAPTER, save_checkpoint
from evclip_ray.training.experiment import ExperimentConfig

NAMES = [f"class number {index}" for index in range(101)]


def experiment(**overrides):
    dotted = {path.replace("__", "."): value for path, value in overrides.items()}
    return ExperimentConfig.load({"data": {"manifest": "none"}}, dotted)


# Published values: backbone -> video encoder, trained parameters, GFLOP (2 x MAC) per video of 8 frames by
# part, GFLOP of a training step.
PUBLISHED = {
    "RN50": (
        "swin3d_s", 6_449_326, {"image_tower": 97.8, "video_encoder": 75.5, "mask_generator": 3.52}, 282
    ),
    "ViT-B-32": (
        "swin3d_s", 6_055_086, {"image_tower": 70.5, "video_encoder": 75.5, "mask_generator": 3.52}, 228
    ),
    "ViT-B-16": (
        "swin3d_s", 6_055_086, {"image_tower": 281.0, "video_encoder": 75.5, "mask_generator": 3.52}, 660
    ),
    "ViT-L-14": (
        "swin3d_b", 10_808_000, {"image_tower": 1296.2, "video_encoder": 130.9, "mask_generator": 6.19}, 2794
    ),
}  # fmt: skip


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_published_parameters_and_gmac_are_reproduced(backbone):
    encoder, trainable, gflop, training = PUBLISHED[backbone]
    settings = experiment(backbone__name=backbone, method__video_encoder__name=encoder)
    cost = count_cost(settings, NAMES)
    assert cost.trainable_parameters == trainable
    for part, expected in gflop.items():
        assert 2 * cost.inference_gmac[part] == pytest.approx(expected, rel=0.01), part
    assert 2 * sum(cost.training_gmac.values()) == pytest.approx(training, rel=0.01)


def test_class_texts_count_once_and_totals_cover_all_networks():
    cost = count_cost(experiment(backbone__name="ViT-B-32", method__video_encoder__name="swin3d_t"), NAMES)
    assert 2 * cost.class_text_gmac == pytest.approx(602, rel=0.01)
    assert "text_tower" not in cost.inference_gmac
    assert cost.total_parameters == 151_277_313 + 27_850_470 + 6_055_086


DEBUG = {"backbone__name": "debug", "method__video_encoder__name": "swin3d_debug", "view__num_frames": 4}


@pytest.mark.parametrize(
    "method", ["ez_clip", "motion_prompts", "coop", "fine_tune", "zero_shot", "prototype"]
)
def test_all_methods_are_counted(method):
    cost = count_cost(experiment(method__name=method, backbone__name="debug"), NAMES[:5])
    assert cost.inference_gmac["image_tower"] == pytest.approx(8 * 0.00254, rel=0.05)
    assert (cost.trainable_parameters == 0) == (method == "zero_shot")
    if method in {"ez_clip", "coop", "fine_tune"}:
        assert cost.class_text_gmac > 0, "trained texts are encoded once for evaluation"
        assert cost.training_gmac["text_tower"] > 0
        assert "text_tower" not in cost.inference_gmac


def test_trained_copy_of_clip_is_counted_once():
    plain = count_cost(experiment(method__name="zero_shot", backbone__name="debug"), NAMES[:5])
    tuned = count_cost(experiment(method__name="fine_tune", backbone__name="debug"), NAMES[:5])
    assert tuned.total_parameters == plain.total_parameters


def test_text_encoding_per_batch_is_counted():
    settings = {"method__name": "ez_clip", "backbone__name": "debug"}
    few = count_cost(experiment(**settings, optim__batch_size=16), NAMES[:4])
    many = count_cost(experiment(**settings, optim__batch_size=16), NAMES)
    assert many.training_gmac["text_tower"] == pytest.approx(4 * few.training_gmac["text_tower"], rel=0.01)


def test_real_weights_give_the_same_counts():
    settings = experiment(
        **DEBUG, backbone__pretrained="random", method__video_encoder__weights="random", optim__batch_size=2
    )
    counted = count_cost(settings, NAMES[:5])
    method = build_method(settings, NAMES[:5], device=torch.device("cpu"))
    clip = method.frozen.clip
    images = torch.rand(1, 4, 3, 64, 64)
    with PartCounter({clip.model.visual: "image_tower"}) as counter, torch.no_grad():
        clip.encode_frames(images)
    assert counter.macs["image_tower"] / 1e9 == pytest.approx(counted.inference_gmac["image_tower"])


def test_fused_attention_is_counted_forward_and_backward():
    clip = load_clip("debug", "random")
    visual = clip.model.visual
    images = torch.rand(1, 4, 3, 64, 64, requires_grad=True)

    def macs():
        with PartCounter({visual: "tower"}) as counter:
            features = clip.encode_frames(images)
            counter.backward()
            features.sum().backward()
        return counter.macs

    fused = macs()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = macs()
    assert fused["tower"] == plain["tower"]
    # A fused backward computes the attention weights again, so it takes slightly more.
    assert plain["backward"] <= fused["backward"] <= 1.1 * plain["backward"]


def test_operation_belongs_to_innermost_labelled_module():
    inner, outer = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    class Nested(nn.Module):
        def forward(self, x):
            return outer(inner(x)) @ torch.ones(4, 2)

    whole = Nested()
    with PartCounter({inner: "inner", whole: "whole"}) as counter:
        whole(torch.ones(1, 4)) @ torch.ones(2, 3)
    assert counter.macs == {"inner": 16, "whole": 16 + 8, "head": 6}


def test_checkpoint_size_equals_a_real_one(tmp_path):
    settings = experiment(**DEBUG, backbone__pretrained="random", method__video_encoder__weights="random")
    method = build_method(settings, NAMES[:5], device=torch.device("cpu"))
    save_checkpoint(tmp_path / "best", method, {})
    real = (tmp_path / "best" / ADAPTER).stat().st_size
    assert count_cost(settings, NAMES[:5]).checkpoint_bytes == real


def test_step_is_measured_in_a_separate_process():
    inference, training = measure_cost(experiment(**DEBUG), NAMES[:5], batch_sizes=[2], repeats=3)
    assert (inference.phase, training.phase) == ("inference", "training")
    for row in (inference, training):
        assert 0 < row.median_seconds <= row.p95_seconds
        assert row.videos_per_second == pytest.approx(2 / row.median_seconds)
        assert row.joules_per_video is None
        assert row.energy_note == "not measured: a CPU has no energy counter"
        assert row.rest_bytes is None or row.rest_bytes > 50e6
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        measure_cost(experiment(**DEBUG), NAMES[:5], repeats=0)


def test_peak_memory_is_the_maximum_of_a_run():
    def run():
        held = torch.ones(2**24)
        del held

    peak = peak_bytes(run, torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not report the peak memory of a process")
    assert 0.9 * 2**26 < peak[1] < 1.5 * 2**26


def test_energy_is_read_from_the_gpu_or_unknown(monkeypatch):
    card = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1500 if handle == "GPU-abc" else 0,
    )
    monkeypatch.setitem(sys.modules, "pynvml", card)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="abc"))
    meter = EnergyMeter(torch.device("cuda", 0))
    assert (meter.joules(), meter.reason) == (1.5, None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    without = EnergyMeter(torch.device("cuda", 0))
    assert without.joules() is None
    assert 'pip install "evclip-ray[energy]"' in without.reason


def test_energy_is_measured_over_many_counter_ticks(monkeypatch):
    monkeypatch.setattr(measured, "ENERGY_SECONDS", 0.2)
    started, runs = time.monotonic(), []

    class Ticking:
        reason = None

        def joules(self):
            # 100 W, updated ten times per second as on real cards.
            return 10.0 * int((time.monotonic() - started) * 10)

    def run():
        runs.append(1)
        time.sleep(0.001)

    joules = measured.joules_per_video(run, Ticking(), size=2, device=torch.device("cpu"))
    total = joules * 2 * len(runs)
    assert total in (10.0, 20.0, 30.0), "whole ticks of the counter"
    assert len(runs) > 20


def test_command_prints_a_table_and_writes_json(tmp_path):
    out = tmp_path / "cost.json"
    arguments = [
        "cost",
        "linear_probe",
        "--backbone",
        "debug",
        "--count-only",
        "--classes",
        "5",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "325 parameters" in result.output
    assert "1 MAC = 2 FLOP" in result.output
    written = json.loads(out.read_text())
    assert written["counted"]["trainable_parameters"] == 325
    assert written["measured"] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ev_clop"], "method 'ev_clop' is unknown; did you mean 'ev_clip'"),
        (
            ["ev_clip", "--backbone", "ViT-B-61"],
            "'ViT-B-61' is unknown; did you mean 'ViT-B-16'",
        ),
        (["ev_clip", "--set", "method.mask.dept=1"], "did you mean 'method.mask.depth'"),
        (["ez_clip", "--backbone", "RN50", "--count-only"], "Choose a ViT"),
    ],
)
def test_unmeasurable_method_is_refused_in_one_line(arguments, expected):
    result = CliRunner().invoke(main, ["cost", *arguments])
    assert result.exit_code == 1
    assert expected in result.output
    assert len(without_stages(result.output)) == 1


def test_weight_used_outside_its_module_counts_for_it():
    block, own = nn.MultiheadAttention(4, 2, device="meta"), nn.Linear(4, 4, bias=False, device="meta")

    class Helper(nn.Module):
        def forward(self, x):
            q, k, _ = torch.nn.functional.linear(x, block.in_proj_weight).chunk(3, -1)
            return own(q) @ k.transpose(0, 1)

    helper = Helper()
    x = torch.ones(3, 4, device="meta")
    with PartCounter({block: "image_tower", own: "adapter", helper: "adapter"}) as counter:
        helper(x)
        x @ block.in_proj_weight[:4].T
    assert +counter.macs == {"image_tower": 3 * 4 * 12 + 3 * 4 * 4, "adapter": 3 * 4 * 4 + 3 * 4 * 3}
