"""Export of a checkpoint to one file that runs without this package.

    model.onnx, model.pt2             the networks, the trained tensors and the class texts
    model.onnx.json                   classes, preprocessing, calibration, licences, versions, digests, parity
    model.onnx.parity.json            difference from PyTorch for each compared video
    model.onnx.texts.safetensors      text features of the classes, only with open classes
    model.onnx.data                   weights, only if they exceed 2 GB

The files are written to a folder next to the target, compared there and renamed at the end.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.export import ExportedProgram

from evclip_ray.artifacts import ArtifactError, check_writable, write_json
from evclip_ray.config import ConfigError
from evclip_ray.deploy.digests import digest_of
from evclip_ray.deploy.export_description import ExportPlan, describe
from evclip_ray.deploy.export_files import SUFFIXES, check_format, write_onnx, write_torch
from evclip_ray.deploy.export_graph import TEXTS, ExportGraph, crop_side, in_half_precision, trace
from evclip_ray.deploy.export_parity import TOLERANCE, Parity, compare
from evclip_ray.deploy.exported_model import ExportedModel, description_of, external_of, texts_of
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.models.layers.class_text import TextClassifier
from evclip_ray.models.methods.base import Method

_EXAMPLE_BATCH = 2


@dataclasses.dataclass(frozen=True)
class Export:
    """Result of an export.

    Attributes:
        path: File of the model.
        description: Content of the JSON file next to it.
        parity: Comparison with PyTorch.
    """

    path: Path
    description: Mapping[str, Any]
    parity: Parity


def check_plan(plan: ExportPlan, *, force: bool) -> None:
    """Check a plan before anything is loaded.

    Args:
        plan: What to export.
        force: Whether an earlier export may be replaced.

    Raises:
        ConfigError: Format, precision and opset do not go together, or a package is missing.
        ArtifactError: The file exists, or its folder cannot be written to.
    """
    check_format(plan.format, plan.precision, plan.opset)
    suffix = SUFFIXES[plan.format]
    if plan.out.suffix != suffix:
        raise ConfigError(
            f"--out {plan.out}: must end in {suffix} for --format {plan.format}, for example "
            f"{plan.out.with_suffix(suffix)}"
        )
    existing = next((path for path in (plan.out, description_of(plan.out)) if path.exists()), None)
    if existing is not None and (not force or existing.is_dir()):
        hint = (
            "choose another --out"
            if existing.is_dir()
            else "replace it with --force, or choose another --out"
        )
        raise ArtifactError(f"{existing}: exists; {hint}")
    check_writable(plan.out.parent, "choose another --out")


def export_checkpoint(
    source: str | Path,
    plan: ExportPlan,
    *,
    videos: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Export:
    """Export a checkpoint and compare the file with PyTorch.

    Args:
        source: Folder of the checkpoint, or a URI.
        plan: What to export.
        videos: Videos for the comparison; random frames by default.
        overrides: Settings by dotted path, such as the place of the frozen weights.
        force: Whether to replace an earlier export.

    Raises:
        ValueError: The plan, the checkpoint or its calibration cannot be used, or the method cannot be
            exported.
        VideoError: None of the videos can be decoded.
    """
    check_plan(plan, force=force)
    # The CPU and float32 for every checkpoint: the graph then has no autocast and no constants on a GPU.
    recognizer = Recognizer.load(
        source, device="cpu", overrides={**(overrides or {}), "precision": "float32"}
    )
    return export_recognizer(recognizer, plan, videos=videos)


def export_recognizer(recognizer: Recognizer, plan: ExportPlan, *, videos: Sequence[str] = ()) -> Export:
    """Export a recognizer on the CPU in float32. An earlier file is replaced; see `export_checkpoint`.

    Args:
        recognizer: The recognizer; its classes are exported.
        plan: What to export.
        videos: Videos for the comparison; random frames by default.
    """
    texts = _open_texts(recognizer) if plan.open_classes else None
    program = _traced(recognizer, plan, texts)
    facts = describe(recognizer, plan, texts)
    # Beside the target, because a rename is atomic only within one file system.
    folder = Path(tempfile.mkdtemp(dir=plan.out.parent, prefix=f".{plan.out.name}."))
    try:
        path = folder / plan.out.name
        inner = json.dumps(facts)
        if plan.format == "onnx":
            write_onnx(program, path, inner, precision=plan.precision, opset=plan.opset)
        else:
            write_torch(program, path, inner)
        del program
        if texts is not None:
            save_file({TEXTS: texts.features.contiguous()}, texts_of(path))
        description = {**facts, "files": _digests(folder)}
        write_json(description_of(path), description)
        tolerance = TOLERANCE if plan.precision == "float32" else None
        parity = compare(recognizer, ExportedModel.load(path), videos, tolerance=tolerance)
        description["parity"] = parity.summary()
        write_json(description_of(path), description)
        write_json(path.with_name(f"{path.name}.parity.json"), parity.record())
        _publish(folder, plan.out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Export(plan.out, description, parity)


def _open_texts(recognizer: Recognizer) -> TextClassifier:
    with torch.no_grad():
        texts = recognizer.method.text_classifier()
    if texts is None:
        raise ConfigError(
            f"{recognizer.checkpoint}: the method {recognizer.experiment.method.name} has trained tensors "
            "per class or does not compare videos with class texts, so its classes cannot stay open. Export "
            "it without --open-classes."
        )
    return texts


def _traced(recognizer: Recognizer, plan: ExportPlan, texts: TextClassifier | None) -> ExportedProgram:
    method: Method = recognizer.method
    if plan.precision == "float16":
        method = in_half_precision(method)
    side = crop_side(recognizer.view)
    frames = torch.zeros(_EXAMPLE_BATCH, recognizer.view.num_frames, side, side, 3, dtype=torch.uint8)
    try:
        return trace(ExportGraph(method, view=recognizer.view, texts=texts), frames)
    # A method of another package may do anything in its forward pass, and each fault has its own class.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{recognizer.checkpoint}: the method {recognizer.experiment.method.name} cannot be exported, "
            f"because torch.export cannot trace it ({type(error).__name__}: {reason})"
        ) from error


def _digests(folder: Path) -> dict[str, Any]:
    digests = {path.name: digest_of(path) for path in sorted(folder.iterdir())}
    return {name: {"bytes": each.num_bytes, "sha256": each.sha256} for name, each in digests.items()}


def _publish(folder: Path, out: Path) -> None:
    """Move the files of an export to their folder, the description last."""
    description = description_of(out)
    names = {path.name for path in folder.iterdir()}
    # Digests of an earlier description would not fit the new files.
    description.unlink(missing_ok=True)
    for stale in (external_of(out), texts_of(out)):
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: name == description.name):
        (folder / name).replace(out.with_name(name))
