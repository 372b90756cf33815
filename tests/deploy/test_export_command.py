"""The command `export`: arguments, table and exit status."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from evclip_ray.cli import main
from evclip_ray.deploy import export as module
from evclip_ray.deploy.export import Export
from evclip_ray.deploy.export_parity import ComparedVideo, Parity

DESCRIPTION = {
    "warnings": [
        "RANDOM WEIGHTS in clip: these numbers do not reflect a trained CLIP. Trained weights are set by "
        "backbone.pretrained (CLIP) and method.video_encoder.weights (video encoder)."
    ],
    "files": {"m.onnx": {"bytes": 2_000_000}},
    "open_classes": False,
    "classes": ["walk", "run"],
    "precision": "float32",
    "licences": [{"part": "CLIP", "network": "ViT-B-16", "licence": "MIT"}],
}


@pytest.fixture
def call(monkeypatch):
    """Return a function that runs the command on an export with a given difference."""

    def run(*arguments, difference=1e-5, tolerance=1e-3, status=0):
        video = ComparedVideo("a.mp4", "walk", "run", difference, difference)
        given = {}

        def export(source, plan, **options):
            given.update(source=source, plan=plan, **options)
            return Export(plan.out, DESCRIPTION, Parity((video,), (), False, tolerance))

        monkeypatch.setattr(module, "export_checkpoint", export)
        # There is no checkpoint.
        command = sys.modules["evclip_ray.cli.export"]
        monkeypatch.setattr(command, "check_checkpoint", lambda *arguments: None)
        result = CliRunner().invoke(main, ["export", *map(str, arguments)])
        assert result.exit_code == status, result.output
        return result, given

    return run


def test_export_prints_size_licence_difference_and_warning(call):
    result, given = call("best", "--out", "m.onnx", "--set", "backbone.pretrained=clip.pt")
    assert "m.onnx (2.0 MB, float32, 2 classes)" in result.stdout
    assert "CLIP ViT-B-16: MIT" in result.stdout
    assert "same best class for 0 of 1 video" in result.stdout
    assert "RANDOM WEIGHTS" in result.stderr
    assert given["plan"].out == Path("m.onnx")
    assert given["overrides"] == {"backbone.pretrained": "clip.pt"}


def test_export_difference_above_tolerance_exits_with_1(call):
    result, _ = call("best", "--out", "m.onnx", difference=0.5, status=1)
    assert "DIFFERS from PyTorch: a logit is off by 0.5, more than 0.001" in result.stderr


def test_export_int8_difference_is_no_failure(call):
    call("best", "--out", "m.onnx", "--precision", "int8", difference=0.5, tolerance=None)


def test_export_videos_are_searched_in_folders(call, videos):
    _, given = call("best", "--out", "m.onnx", "--videos", videos[0].parent)
    assert sorted(given["videos"]) == sorted(map(str, videos))


def test_export_camera_and_missing_videos_are_refused(call, tmp_path):
    result, _ = call("best", "--out", "m.onnx", "--videos", "camera:0", status=1)
    assert "a camera or stream cannot be compared" in result.stderr
    call("best", "--out", "m.onnx", "--videos", tmp_path / "missing", status=1)


def test_export_unknown_format_or_precision_is_wrong_usage(call):
    for option in ("--format", "--precision"):
        result, _ = call("best", "--out", "m.onnx", option, "int4", status=2)
        assert "'int4' is not one of" in result.stderr
