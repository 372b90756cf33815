"""Exports of every method: ONNX and torch, precisions, open classes and batch sizes."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.deploy import export_files
from evclip_ray.deploy.export import export_checkpoint, export_recognizer
from evclip_ray.deploy.export_description import ExportPlan
from evclip_ray.deploy.exported_model import ExportedModel
from evclip_ray.deploy.recognizer import Recognizer

pytestmark = pytest.mark.slow

CASES = {
    "ev_clip": ("ev_clip", {}),
    "ev_clip, mask": ("ev_clip", {"method.prompts": "mask"}),
    "ev_clip, context": ("ev_clip", {"method.prompts": "context"}),
    # Windows that do not divide the map, an encoder of another size, shifted windows and an open mask.
    "ev_clip, 224 pixels": (
        "ev_clip",
        {
            "method.mask.start": "open",
            "method.mask.depth": 2,
            "method.video_encoder.name": "swin3d_nano",
        },
    ),
    "linear_probe": ("linear_probe", {}),
    "coop": ("coop", {}),
    "coop, by class": ("coop", {"method.class_specific": True}),
    "ez_clip": ("ez_clip", {}),
    "ez_clip, adapters": ("ez_clip", {"method.prompts": "none", "method.temporal_adapters": True}),
    "zero_shot": ("zero_shot", {}),
    "prototype": ("prototype", {}),
    "motion_prompts": ("motion_prompts", {}),
    "motion_prompts, late": ("motion_prompts", {"method.mode": "late"}),
    "aim": ("aim", {}),
    "aim, linear": ("aim", {"method.head": "linear", "method.temporal_adapters": 2}),
    "st_adapter": ("st_adapter", {}),
    "st_adapter, linear": ("st_adapter", {"method.head": "linear"}),
    "fine_tune": ("fine_tune", {}),
}
CLOSED = (
    "linear_probe",
    "prototype",
    "motion_prompts",
    "motion_prompts, late",
    "coop, by class",
    "aim, linear",
    "st_adapter, linear",
)
PROMISED = ("ev_clip", "ev_clip, mask", "ev_clip, context", "linear_probe", "coop", "ez_clip")
"""Methods that are compared on real videos."""


@pytest.fixture
def case(make_checkpoint):
    """Return a function that returns the checkpoint of a case."""

    def checkpoint(name):
        method, overrides = CASES[name]
        return make_checkpoint(method, overrides=overrides)

    return checkpoint


def views(recognizer, videos, count):
    decoded = [recognizer.decode(video) for video in videos]
    return [decoded[number % len(decoded)] for number in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_float32_export_equals_pytorch_for_any_batch(case, videos, tmp_path, name):
    recognizer = Recognizer.load(case(name), device="cpu")
    for form, suffix in (("onnx", ".onnx"), ("torch", ".pt2")):
        plan = ExportPlan(tmp_path / f"m{suffix}", form)
        exported = export_recognizer(recognizer, plan, videos=list(map(str, videos)))
        assert exported.parity.passed
        assert exported.parity.top1_agreement == 1
        model = ExportedModel.load(exported.path)
        for count in (1, 2, 5):
            frames = views(recognizer, videos, count)
            np.testing.assert_allclose(model.logits(frames), recognizer.logits(frames), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "form", "precision"),
    [
        ("ev_clip, mask", "onnx", "float16"),
        ("fine_tune", "torch", "float16"),
        ("ez_clip", "onnx", "int8"),
        ("linear_probe", "onnx", "int8"),
    ],
)
def test_reduced_precision_is_smaller_and_close(case, videos, tmp_path, name, form, precision):
    recognizer = Recognizer.load(case(name), device="cpu")
    suffix = export_files.SUFFIXES[form]
    full = export_recognizer(recognizer, ExportPlan(tmp_path / f"full{suffix}", form))
    small = export_recognizer(
        recognizer, ExportPlan(tmp_path / f"small{suffix}", form, precision), videos=list(map(str, videos))
    )
    assert small.path.stat().st_size < 0.9 * full.path.stat().st_size
    assert small.parity.passed
    assert 0 < small.parity.max_difference < 3
    # The recognizer shares its networks with the process, and an export in half precision copies them.
    assert recognizer.method.frozen.clip.dtype == torch.float32


@pytest.mark.parametrize("name", ["ev_clip, context", "coop", "ez_clip", "fine_tune", "aim", "zero_shot"])
def test_open_classes_take_the_texts_of_other_classes(case, videos, tmp_path, name):
    recognizer = Recognizer.load(case(name), device="cpu")
    exported = export_recognizer(recognizer, ExportPlan(tmp_path / "m.onnx", open_classes=True))
    assert exported.parity.passed
    model = ExportedModel.load(exported.path)
    other = recognizer.with_classes(["sit down", "jump", "fall", "sleep", "eat", "drink"])
    with torch.no_grad():
        texts = other.method.text_classifier().features.numpy()
    frames = views(recognizer, videos, 3)
    np.testing.assert_allclose(model.logits(frames, texts), other.logits(frames), atol=1e-3)


@pytest.mark.parametrize("name", CLOSED)
def test_open_classes_of_closed_methods_are_refused(case, tmp_path, name):
    with pytest.raises(ConfigError, match="cannot stay open"):
        export_checkpoint(case(name), ExportPlan(tmp_path / "m.onnx", open_classes=True))


_ALONE = """
import sys, numpy as np
sys.modules["evclip_ray"] = sys.modules["open_clip"] = None
frames = np.load(sys.argv[2])
if sys.argv[1].endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1])
    assert "torch" not in sys.modules
    logits = session.run(["logits"], {"frames": frames})[0]
else:
    import torch
    logits = torch.export.load(sys.argv[1]).module()(torch.from_numpy(frames)).detach().numpy()
np.save(sys.argv[3], logits)
"""


@pytest.mark.parametrize(("form", "suffix"), [("onnx", ".onnx"), ("torch", ".pt2")])
def test_export_runs_without_this_package(case, videos, tmp_path, form, suffix):
    recognizer = Recognizer.load(case("ev_clip"), device="cpu")
    path = export_recognizer(recognizer, ExportPlan(tmp_path / f"m{suffix}", form)).path
    frames = views(recognizer, videos, 3)
    np.save(tmp_path / "frames.npy", ExportedModel.load(path).crops(frames))
    names = [str(path), str(tmp_path / "frames.npy"), str(tmp_path / "logits.npy")]
    subprocess.run([sys.executable, "-c", _ALONE, *names], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), recognizer.logits(frames), atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_large_weights_are_written_to_a_second_file(case, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(export_files, "MAX_BYTES", 1000)
    plan = ExportPlan(tmp_path / "m.onnx", precision=precision)
    exported = export_checkpoint(case("linear_probe"), plan)
    assert exported.parity.passed
    assert sorted(exported.description["files"]) == ["m.onnx", "m.onnx.data"]
    assert ExportedModel.load(tmp_path / "m.onnx").classes
    monkeypatch.undo()
    export_checkpoint(case("linear_probe"), plan, force=True)
    assert not (tmp_path / "m.onnx.data").exists()


def test_oldest_opset_and_names_of_dimensions(case, tmp_path):
    plan = ExportPlan(tmp_path / "m.onnx", opset=export_files.MIN_OPSET)
    exported = export_checkpoint(case("ev_clip"), plan)
    assert exported.parity.passed
    model = onnx.load(exported.path)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not [node.name for node in model.graph.node if node.metadata_props]
    assert b"evclip_ray/" not in exported.path.read_bytes()


@pytest.mark.parametrize("name", PROMISED)
def test_real_videos_have_equal_classes(case, shared, tmp_path, name):
    videos = sorted((shared / "data" / "ut_interaction_set1").rglob("*.*"))
    videos = [str(path) for path in videos if path.suffix in {".avi", ".mp4"}]
    assert len(videos) == 60
    exported = export_checkpoint(case(name), ExportPlan(tmp_path / "m.onnx"), videos=videos)
    assert exported.parity.passed
    assert exported.parity.top1_agreement == 1
