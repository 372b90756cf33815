"""Exported model: an ONNX or `.pt2` file with its description, as a recognizer's forward pass."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError, read_json
from evclip_ray.config import ConfigError
from evclip_ray.data.transforms import crop_batch, crop_box, to_device
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.digests import digest_of
from evclip_ray.deploy.export_files import SUFFIXES
from evclip_ray.deploy.export_graph import FRAMES, LOGITS, TEXTS
from evclip_ray.optional import require

Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""Function from the inputs by name to the logits (B, N)."""

_DAMAGED = "Export the checkpoint again with --force."


def description_of(path: Path) -> Path:
    """Return the file that describes an exported model."""
    return path.with_name(f"{path.name}.json")


def texts_of(path: Path) -> Path:
    """Return the file with the text features of an exported model with open classes."""
    return path.with_name(f"{path.name}.texts.safetensors")


def external_of(path: Path) -> Path:
    """Return the file with the weights of an ONNX model that are too large for one file."""
    return path.with_name(f"{path.name}.data")


class ExportedModel:
    """Exported model with the method `logits` of a `Recognizer`.

    Attributes:
        path: File of the model.
        description: Content of the JSON file next to it.
        classes: Class names in the order of the logits.
        view: Sampling and stored size of the frames.
        crop_side: Side of the crop that the model reads, in pixels.
        text_features: (N, D), those of `classes`; None if the class texts are inside.
    """

    def __init__(
        self, path: Path, description: Mapping[str, Any], run: Run, text_features: NDArray[np.float32] | None
    ) -> None:
        self.path, self.description, self.text_features = path, description, text_features
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.view = ViewConfig.model_validate(description["preprocessing"]["view"])
        self.crop_side = int(description["preprocessing"]["crop_side"])
        self._run = run

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> Self:
        """Load an exported model for the CPU.

        Args:
            path: The `.onnx` or `.pt2` file, with its JSON file next to it.
            threads: Threads of an operation in ONNX Runtime; by default its own choice. PyTorch has one
                number for the process, `torch.set_num_threads`.

        Raises:
            ArtifactError: A file is missing, or the model is not the one that the JSON file describes.
            ConfigError: ONNX Runtime is not installed or cannot run the model.
        """
        path = Path(path)
        description = read_json(description_of(path))
        if not isinstance(description, dict) or description.get("format") not in SUFFIXES:
            raise ArtifactError(f"{description_of(path)}: does not describe an exported model. {_DAMAGED}")
        for name, recorded in description["files"].items():
            _check_file(path.with_name(name), recorded["sha256"])
        texts = None
        if description["open_classes"]:
            from safetensors.numpy import load_file

            texts = load_file(texts_of(path))[TEXTS]
        if description["format"] == "onnx":
            return cls(path, description, _onnx_session(path, threads), texts)
        if threads is not None:
            raise ConfigError("threads is for ONNX Runtime; call torch.set_num_threads for a .pt2 file")
        return cls(path, description, _torch_program(path), texts)

    def logits(
        self, frames: Sequence[NDArray[np.uint8]], text_features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits (B, N) of B views in one forward pass.

        Args:
            frames: B views (T, H, W, 3) uint8, whose sizes may differ. A view whose short side is not that of
                `view` is resized to 8-bit pixels first, which changes the logits slightly.
            text_features: (N, D), L2-normalised, of other classes; those of `classes` by default.

        Raises:
            ValueError: A view has another shape or type, or the classes of the model are not open.
        """
        inputs: dict[str, NDArray[Any]] = {FRAMES: self.crops(frames)}
        if self.text_features is not None:
            texts = self.text_features if text_features is None else text_features
            inputs[TEXTS] = np.ascontiguousarray(texts, np.float32)
        elif text_features is not None:
            raise ValueError(f"{self.path}: its class texts are inside; export it with --open-classes")
        return self._run(inputs)

    def crops(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the centre crops (B, T, c, c, 3) of B views: the input `frames` of the model."""
        for view in frames:
            if view.ndim != 4 or view.dtype != np.uint8 or len(view) != self.view.num_frames:
                raise ValueError(
                    f"a view must be ({self.view.num_frames}, H, W, 3) uint8, got {view.shape} {view.dtype}"
                )
        return np.stack([_crop(view, self.crop_side) for view in frames])


def _crop(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    top, left, side = crop_box(*frames.shape[1:3])
    crop = frames[:, top : top + side, left : left + side]
    if side == size:
        return crop
    import torch

    pixels = crop_batch(to_device(crop[None].copy(), torch.device("cpu")), size=size, share=1.0)
    # (1, T, 3, c, c) in [0, 1] -> (T, c, c, 3) uint8
    resized: NDArray[np.uint8] = (pixels[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return resized


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: is missing; it is part of the exported model. {_DAMAGED}")
    actual = digest_of(path).sha256
    if actual != sha256:
        raise ArtifactError(
            f"{path}: is not the file that its JSON file describes (SHA-256 {actual[:16]}..., expected "
            f"{sha256[:16]}...). {_DAMAGED}"
        )


def _onnx_session(path: Path, threads: int | None) -> Run:
    runtime: Any = require("onnxruntime", extra="onnx", purpose="an ONNX model")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about its own optimisations
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime raises a class of its own for each kind of problem, without a common base.
    except Exception as error:
        raise ConfigError(
            f"{path}: ONNX Runtime {runtime.__version__} cannot run it: "
            f"{' '.join(str(error).split())[:300]}. Install a newer onnxruntime, or export with a lower "
            "--opset."
        ) from error

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([LOGITS], dict(inputs))[0]
        return logits

    return run


def _torch_program(path: Path) -> Run:
    import torch

    with warnings.catch_warnings():
        # torch 2.11 makes tensors over the bytes of the file. Nothing writes to them.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        module = torch.export.load(path).module()

    def run(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(value) for value in inputs.values()))
        # With open classes the video features follow the logits.
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        array: NDArray[np.float32] = logits.numpy()
        return array

    return run
