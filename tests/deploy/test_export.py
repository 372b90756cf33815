"""Export of a checkpoint: refused plans, files and description."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from permissions import no_override

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError
from evclip_ray.deploy import export as module
from evclip_ray.deploy.export import check_plan, export_checkpoint
from evclip_ray.deploy.export_description import ExportPlan
from evclip_ray.deploy.exported_model import ExportedModel, description_of
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.metrics.calibration import Calibration


@pytest.fixture(scope="module")
def exported(tmp_path_factory, make_checkpoint):
    """Export a linear probe to a .pt2 file, which is the quickest of all."""
    checkpoint = make_checkpoint("linear_probe")
    plan = ExportPlan(tmp_path_factory.mktemp("export") / "model.pt2", "torch")
    return checkpoint, export_checkpoint(checkpoint, plan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "m.pt2", "format": "torch", "precision": "int8"}, "torch.export cannot trace"),
        ({"out": "m.pt2", "format": "torch", "opset": 20}, "is for --format onnx"),
        ({"out": "m.onnx", "opset": 9}, "--opset 9: must be from 18 to"),
        ({"out": "m.onnx", "opset": 999}, "--opset 999: must be from 18 to"),
        ({"out": "m.pt2"}, r"must end in \.onnx .* m\.onnx|must end in \.onnx"),
        ({"out": "model", "format": "torch"}, r"must end in \.pt2"),
    ],
)
def test_check_plan_wrong_combination_names_the_fix(tmp_path, settings, message):
    plan = ExportPlan(tmp_path / settings.pop("out"), **settings)
    with pytest.raises(ConfigError, match=message):
        check_plan(plan, force=False)


def test_check_plan_existing_file_needs_force(tmp_path):
    out = tmp_path / "m.pt2"
    out.write_text("earlier")
    with pytest.raises(ArtifactError, match="exists; replace it with --force"):
        check_plan(ExportPlan(out, "torch"), force=False)
    check_plan(ExportPlan(out, "torch"), force=True)
    out.unlink()
    out.mkdir()
    with pytest.raises(ArtifactError, match="exists; choose another --out"):
        check_plan(ExportPlan(out, "torch"), force=True)


def test_check_plan_read_only_folder_names_out(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with no_override(), pytest.raises(ArtifactError, match="choose another --out"):
            check_plan(ExportPlan(tmp_path / "m.pt2", "torch"), force=False)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_check_plan_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"evclip-ray\[onnx\]"):
        check_plan(ExportPlan(tmp_path / "m.onnx"), force=False)
    check_plan(ExportPlan(tmp_path / "m.pt2", "torch"), force=False)


def test_export_gives_the_logits_of_the_recognizer(exported, videos):
    checkpoint, result = exported
    recognizer, model = Recognizer.load(checkpoint, device="cpu"), ExportedModel.load(result.path)
    assert model.classes == recognizer.classes
    views = [recognizer.decode(video) for video in videos]
    for count in (1, 3):
        expected = recognizer.logits(views[:count])
        np.testing.assert_allclose(model.logits(views[:count]), expected, atol=1e-4)
    assert result.parity.passed
    assert result.parity.is_random


def test_description_states_preprocessing_and_licences(exported):
    _, result = exported
    description = json.loads(description_of(result.path).read_text())
    assert description["inputs"]["frames"]["shape"] == ["batch", 4, 63, 63, 3]
    assert description["outputs"]["logits"]["shape"] == ["batch", 4]
    assert any("63 x 63" in step for step in description["preprocessing"]["before_the_model"])
    assert description["preprocessing"]["inside_the_model"][0] == "resize to 64 x 64 pixels"
    assert [each["licence"] for each in description["licences"]] == ["none: random weights"]
    assert "RANDOM WEIGHTS" in description["warnings"][0]
    assert description["parity"]["passed"] is True
    assert description["calibration"] is None
    assert sorted(path.name for path in result.path.parent.iterdir()) == [
        "model.pt2",
        "model.pt2.json",
        "model.pt2.parity.json",
    ]


def test_file_contains_its_description(exported):
    _, result = exported
    inner = {"evclip_ray.json": ""}
    torch.export.load(result.path, extra_files=inner)
    facts = json.loads(inner["evclip_ray.json"])
    assert facts["classes"] == ["walk", "run", "wave", "open_a_door"]


def test_load_changed_or_missing_file_raises(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported[1].path.parent, folder)
    model = folder / "model.pt2"
    model.write_bytes(model.read_bytes() + b"0")
    with pytest.raises(ArtifactError, match="is not the file that its JSON file describes"):
        ExportedModel.load(model)
    model.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        ExportedModel.load(model)
    description_of(model).unlink()
    with pytest.raises(ArtifactError, match=r"model\.pt2\.json: cannot be read"):
        ExportedModel.load(model)


def test_logits_wrong_views_raise(exported):
    model = ExportedModel.load(exported[1].path)
    with pytest.raises(ValueError, match=r"must be \(4, H, W, 3\) uint8"):
        model.logits([np.zeros((3, 72, 72, 3), np.uint8)])
    with pytest.raises(ValueError, match="--open-classes"):
        model.logits([np.zeros((4, 72, 72, 3), np.uint8)], np.zeros((2, 64), np.float32))
    with pytest.raises(ConfigError, match=r"torch\.set_num_threads"):
        ExportedModel.load(exported[1].path, threads=2)


def test_logits_of_other_sizes_are_close_to_those_of_pytorch(exported):
    checkpoint, result = exported
    frames = np.random.default_rng(0).integers(0, 256, (4, 150, 210, 3), dtype=np.uint8)
    expected = Recognizer.load(checkpoint, device="cpu").logits([frames])
    np.testing.assert_allclose(ExportedModel.load(result.path).logits([frames]), expected, atol=0.05)


def test_open_classes_of_a_trained_classifier_are_refused(make_checkpoint, tmp_path):
    plan = ExportPlan(tmp_path / "m.pt2", "torch", open_classes=True)
    with pytest.raises(ConfigError, match="linear_probe has trained tensors per class"):
        export_checkpoint(make_checkpoint("linear_probe"), plan)
    assert not list(tmp_path.iterdir())


def test_calibration_of_other_classes_is_refused(make_checkpoint, tmp_path):
    checkpoint = shutil.copytree(make_checkpoint("linear_probe"), tmp_path / "best")
    Calibration(temperature=2.0, classes=("jump", "sit")).write(checkpoint)
    with pytest.raises(ArtifactError, match="is for 2 classes"):
        export_checkpoint(checkpoint, ExportPlan(tmp_path / "m.pt2", "torch"))


def test_method_that_cannot_be_traced_is_refused(make_checkpoint, tmp_path, monkeypatch):
    def trace(*_):
        raise RuntimeError("data-dependent\nbranch")

    monkeypatch.setattr(module, "trace", trace)
    with pytest.raises(ConfigError, match=r"linear_probe cannot be exported.*data-dependent branch"):
        export_checkpoint(make_checkpoint("linear_probe"), ExportPlan(tmp_path / "m.pt2", "torch"))
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_earlier_export(exported, make_checkpoint, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[1].path.parent, tmp_path / "export")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(module, "trace", lambda *_: None)

    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_torch", write)
    with pytest.raises(OSError, match="No space"):
        export_checkpoint(
            make_checkpoint("linear_probe"), ExportPlan(folder / "model.pt2", "torch"), force=True
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
