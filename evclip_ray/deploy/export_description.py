"""Description of an exported model: the JSON file next to it, also stored inside of it."""

import dataclasses
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import file_digest, provenance
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.export_files import DEFAULT_OPSET, Format, Precision
from evclip_ray.deploy.export_graph import (
    BATCH,
    CLASSES,
    FRAMES,
    LOGITS,
    TEXTS,
    VIDEO_FEATURES,
    crop_side,
)
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.shared_copy import without_places
from evclip_ray.formatting import counted
from evclip_ray.metrics.calibration import Calibration
from evclip_ray.models.layers.class_text import TextClassifier
from evclip_ray.models.weight_licences import weight_licences
from evclip_ray.records import random_weights_warning
from evclip_ray.training.build import weights_of
from evclip_ray.training.checkpoint import ADAPTER


@dataclasses.dataclass(frozen=True)
class ExportPlan:
    """What to export.

    Attributes:
        out: File of the model.
        format: "onnx" or "torch".
        precision: "float32", "float16" or "int8".
        open_classes: Whether text features are an input instead of being inside.
        opset: Version of ONNX's operators; None for the default.
    """

    out: Path
    format: Format = "onnx"
    precision: Precision = "float32"
    open_classes: bool = False
    opset: int | None = None


def describe(recognizer: Recognizer, plan: ExportPlan, texts: TextClassifier | None) -> dict[str, Any]:
    """Return the description without digests and comparison, as JSON values.

    Args:
        recognizer: Recognizer that is exported.
        plan: What is exported.
        texts: Class texts of a model with open classes; None if they are inside.
    """
    experiment = recognizer.experiment.model_dump(mode="json")
    # Weights may be local files, whose paths belong to this machine.
    shared, _ = without_places({"experiment": experiment})
    weights = weights_of(recognizer.method.frozen)
    warning = random_weights_warning(weights)
    return {
        "format": plan.format,
        "precision": plan.precision,
        "opset": (plan.opset or DEFAULT_OPSET) if plan.format == "onnx" else None,
        "classes": list(recognizer.classes),
        "open_classes": plan.open_classes,
        **_signature(recognizer, texts),
        "preprocessing": _preprocessing(recognizer),
        "calibration": _calibration(recognizer.calibration),
        "method": shared["experiment"]["method"],
        "backbone": recognizer.experiment.backbone.name,
        "licences": [dataclasses.asdict(each) for each in weight_licences(experiment, weights)],
        "checkpoint": {"adapter": file_digest(recognizer.checkpoint / ADAPTER)},
        "provenance": provenance(),
        "warnings": [] if warning is None else [warning],
    }


def _signature(recognizer: Recognizer, texts: TextClassifier | None) -> dict[str, Any]:
    side = crop_side(recognizer.view)
    shape = [BATCH, recognizer.view.num_frames, side, side, 3]
    inputs: dict[str, Any] = {FRAMES: {"type": "uint8", "shape": shape, "colours": "RGB"}}
    if texts is None:
        logits = {"type": "float32", "shape": [BATCH, len(recognizer.classes)]}
        return {"inputs": inputs, "outputs": {LOGITS: logits}}
    width = texts.features.shape[1]
    # Both are L2-normalised: logits = scale * video_features @ text_features.T + bias.
    inputs[TEXTS] = {"type": "float32", "shape": [CLASSES, width], "norm": 1}
    outputs = {
        LOGITS: {"type": "float32", "shape": [BATCH, CLASSES]},
        VIDEO_FEATURES: {"type": "float32", "shape": [BATCH, width], "norm": 1},
    }
    return {"inputs": inputs, "outputs": outputs, "logit_scale": texts.scale, "logit_bias": texts.bias}


def _preprocessing(recognizer: Recognizer) -> dict[str, Any]:
    view, side, size = recognizer.view, crop_side(recognizer.view), recognizer.image_size
    resize = [] if side == size else [f"resize to {size} x {size} pixels"]
    return {
        "view": view.model_dump(mode="json"),
        "crop_side": side,
        "before_the_model": [
            f"decode {counted(view.num_frames, 'frame')} as RGB: {_sampling(view)}",
            f"resize to {_stored(view)}, with antialiasing",
            f"crop the central square of {side} x {side} pixels",
            "keep 8-bit values from 0 to 255",
        ],
        "inside_the_model": [*resize, "scale to [0, 1]", "normalise for each network", "networks", "logits"],
    }


def _sampling(view: ViewConfig) -> str:
    if view.sampling == "segments":
        return f"the middle one of each of {view.num_frames} equal parts of the video"
    step = view.window_frames // view.num_frames
    return f"every {step}th of the {counted(view.window_frames, 'frame')} in the middle of the video"


def _stored(view: ViewConfig) -> str:
    if view.fixed_size is None:
        return f"a short side of {view.shortest} pixels, keeping the aspect ratio"
    how = "ignoring the aspect ratio" if view.fit == "stretch" else "cut to that aspect ratio"
    return "{} x {} pixels (height x width), ".format(*view.fixed_size) + how


def _calibration(calibration: Calibration | None) -> dict[str, Any] | None:
    """Return what a reader needs to turn logits into probabilities: softmax(logits / temperature)."""
    if calibration is None:
        return None
    return calibration.model_dump(mode="json", exclude={"validation", "adapter"})
