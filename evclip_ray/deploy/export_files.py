"""Files of exported models: ONNX by onnxscript, `.pt2` by torch.export, int8 weights by ONNX Runtime."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from evclip_ray.config import ConfigError
from evclip_ray.deploy.export_graph import BATCH, CLASSES, FRAMES, LOGITS, TEXTS, VIDEO_FEATURES
from evclip_ray.optional import require

Format = Literal["onnx", "torch"]
Precision = Literal["float32", "float16", "int8"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""Ending of the file of each format."""

FACTS = "evclip_ray.json"
"""Name of the description inside of a file."""

DEFAULT_OPSET, MIN_OPSET = 20, 18

MAX_BYTES = 1_900_000_000
"""Largest size of the weights inside of an ONNX file. A protobuf message cannot exceed 2 GiB."""

_EXTRA = "onnx"
_PURPOSE = "an ONNX export"


def check_format(form: Format, precision: Precision, opset: int | None) -> None:
    """Check a combination of format, precision and opset, and the packages that it needs.

    Raises:
        ConfigError: The combination does not exist, or a package is missing.
    """
    if form == "torch" and precision == "int8":
        raise ConfigError(
            "--format torch --precision int8 does not exist: PyTorch packs int8 weights into objects that "
            "torch.export cannot trace. Choose --format onnx --precision int8, or --format torch with "
            "--precision float32 or float16."
        )
    if form == "torch" and opset is not None:
        raise ConfigError(
            f"--opset {opset} is for --format onnx alone; leave it out, or choose --format onnx"
        )
    if form == "onnx":
        onnx = require("onnx", extra=_EXTRA, purpose=_PURPOSE)
        for package in ("onnxscript", "onnxruntime"):
            require(package, extra=_EXTRA, purpose=_PURPOSE)
        newest = onnx.defs.onnx_opset_version()
        if opset is not None and not MIN_OPSET <= opset <= newest:
            raise ConfigError(
                f"--opset {opset}: must be from {MIN_OPSET} to {newest}, the newest of the installed onnx "
                f"{onnx.__version__}; the default is {DEFAULT_OPSET}"
            )


def write_torch(program: ExportedProgram, path: Path, facts: str) -> None:
    """Write a program that `torch.export.load` reads without this package.

    Args:
        program: The traced graph.
        path: The file.
        facts: Description inside of the file, JSON.
    """
    with _quiet():
        torch.export.save(program, path, extra_files={FACTS: facts})


def write_onnx(
    program: ExportedProgram, path: Path, facts: str, *, precision: Precision, opset: int | None
) -> None:
    """Write an ONNX file. Weights above `MAX_BYTES` are in a second file, `path` with `.data` appended.

    Args:
        program: The traced graph.
        path: The file, in a folder of its own.
        facts: Description inside of the file, JSON.
        precision: "int8" quantises the weights of matrix products; otherwise that of the graph is kept.
        opset: Version of ONNX's operators.

    Raises:
        ConfigError: An operation of the graph has no form in this opset.
    """
    optimizer = require("onnxscript.optimizer", extra=_EXTRA, purpose=_PURPOSE)
    is_large = sum(value.nbytes for value in program.state_dict.values()) > MAX_BYTES
    has_texts = len(program.graph_signature.user_inputs) > 1
    with _quiet():
        try:
            written: Any = torch.onnx.export(
                program,
                input_names=[FRAMES, TEXTS] if has_texts else [FRAMES],
                output_names=[LOGITS, VIDEO_FEATURES] if has_texts else [LOGITS],
                opset_version=opset or DEFAULT_OPSET,
                # The rewriter of onnxscript 0.7 takes an addition of 1e-8 for one of 0. The mask's rescaling
                # adds 1e-8, and the logits of an untrained mask were then off by 2e-3.
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            # The exporter nests the reason, which is in the innermost error.
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            raise ConfigError(
                f"this method cannot be written as ONNX (opset {opset or DEFAULT_OPSET}): "
                f"{' '.join(str(reason).split())[:300]}. Choose another --opset, or --format torch."
            ) from error
        model = written.model
        optimizer.inline(model)
        optimizer.fold_constants(model)
        optimizer.remove_unused_nodes(model)
        _name_dimensions(model)
        _forget_source(model)
        model.producer_name, model.metadata_props[FACTS] = "evclip-ray", facts
        if precision == "int8":
            _write_quantized(written, path, is_large=is_large)
        else:
            written.save(path, external_data=is_large)


def _name_dimensions(model: Any) -> None:
    """Replace the names of torch's symbols, such as s41, by "batch" and "classes"."""
    from onnx_ir import Shape

    names = {}
    for value, name in zip(model.graph.inputs, (BATCH, CLASSES), strict=False):
        names[str(value.shape[0])] = name
    values = [*model.graph.inputs, *model.graph.outputs]
    values += [output for node in model.graph for output in node.outputs]
    for value in values:
        if value.shape is not None:
            value.shape = Shape(
                [size if isinstance(size, int) else names.get(str(size)) for size in value.shape]
            )


def _forget_source(model: Any) -> None:
    # Nodes carry stack traces and the text of the traced graph, a third of the size of a small model.
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _write_quantized(written: Any, path: Path, *, is_large: bool) -> None:
    """Quantise the weights of matrix products to int8; activations are quantised in each pass."""
    quantization = require("onnxruntime.quantization", extra=_EXTRA, purpose=_PURPOSE)
    inference = require("onnxruntime.quantization.shape_inference", extra=_EXTRA, purpose=_PURPOSE)
    # In a folder of its own: `quant_pre_process` leaves a file of weights with a random name.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        floats, folded = Path(folder) / "floats.onnx", Path(folder) / "folded.onnx"
        written.save(floats, external_data=is_large)
        # Folds the transpositions of weights, because only products with a constant are quantised.
        inference.quant_pre_process(
            floats,
            folded,
            skip_symbolic_shape=True,
            save_as_external_data=is_large,
            all_tensors_to_one_file=True,
        )
        quantization.quantize_dynamic(
            folded,
            path,
            # Not the convolutions: ONNX Runtime recommends static quantisation for them, which needs videos.
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            use_external_data_format=is_large,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide notes of the exporters about their own inner steps."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir", "root")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
