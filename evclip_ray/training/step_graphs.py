"""CUDA graphs of training steps whose time goes into launching kernels.

On an H200, an eager step of EV-CLIP on ViT-B/16 took 40 ms with 2 videos and 58 ms with 16 (2026-11-27). With
2 videos the GPU waits for Python. A graph launches all kernels of a step with one call. It holds eager or
compiled code, so that it needs no compiler.

`mode="reduce-overhead"` of `torch.compile` does the same for compiled code alone. It keeps its graphs per
thread, and Tune runs each trial in a thread of its own, so that the graphs of ended trials would stay.
"""

import collections
import contextlib
import dataclasses
import gc
import logging
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from evclip_ray.formatting import binary_size
from evclip_ray.models.batch import VideoBatch
from evclip_ray.training.experiment import ExperimentConfig

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

REPAYING_STEPS = 200
"""Steps of a run that repay the capture, which takes the time of some steps. Assumed."""

_WARM_UP_CALLS = 2
"""Calls for each size of a batch before anything else. They compile code and select kernels."""
_TIMED_CALLS = 3
_LAUNCH_BOUND = 0.1
"""Largest share of a step for which the GPU still computes after the last launch if launches take the time.
At 16 videos above it was 0.3."""
_SPARE = 2.0
"""Free memory that a capture needs, relative to a step: for the graph, and for validation beside it."""


class StepGradients(NamedTuple):
    """Numbers of a step whose gradients are in the parameters.

    Attributes:
        terms: Loss terms, detached.
        norm: Norm of the gradient before it was clipped.
        is_finite: Whether the loss and the norm are finite.
    """

    terms: dict[str, Tensor]
    norm: Tensor
    is_finite: Tensor


Compute = Callable[[VideoBatch], StepGradients]
"""Function that sets the gradients of the parameters. It draws no random numbers on the host."""


def may_use_graphs(
    experiment: ExperimentConfig,
    device: torch.device,
    *,
    num_steps: int,
    has_fixed_shapes: bool,
    num_workers: int = 1,
) -> bool:
    """Return whether a run may use CUDA graphs. Whether it does follows from its first steps.

    Not with mixup, whose weight is a number of the host that a graph would repeat, and not with activation
    checkpointing, which reads the state of the random generator.

    Args:
        experiment: Settings. `compile: off` uses no graphs.
        device: Device of the method.
        num_steps: Steps of the run, over all epochs.
        has_fixed_shapes: As `Method.has_fixed_shapes`.
        num_workers: Training processes of the run. The sums of a group are not captured.
    """
    is_excluded = experiment.data.augment.mixup or experiment.backbone.activation_checkpointing
    is_alone = num_workers == 1 and has_fixed_shapes and not is_excluded
    if experiment.compile == "off" or device.type != "cuda" or not is_alone or num_steps < REPAYING_STEPS:
        return False
    # Streams, and waits for the GPU, are those of the current one. A graph of another one would be empty.
    return device.index is None or device.index == torch.cuda.current_device()


class StepGraphs:
    """Gradients of a run's steps, by a CUDA graph for each size of a batch if that is faster.

    The first calls are ordinary ones. Three of them are timed, and wait for the GPU. If it was idle for most
    of them, the next call for each size captures a graph, and later calls copy their batch to the graph's
    inputs and launch it. If that fails, or memory does not suffice, all calls stay ordinary ones.

    Args:
        compute: Ordinary computation.
        parameters: Parameters whose gradients it sets.

    Attributes:
        is_wanted: Whether graphs are used. None until the calls were timed.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter]) -> None:
        self._compute, self._parameters = compute, parameters
        self._calls: collections.Counter[Any] = collections.Counter()
        self._busy: list[float] = []
        self._captured: dict[Any, _CapturedStep] = {}
        self._recorder: Recorder | None = None
        self.is_wanted: bool | None = False if _failures else None

    @property
    def num_graphs(self) -> int:
        """Number of captured graphs."""
        return len(self._captured)

    def __call__(self, batch: VideoBatch) -> StepGradients:
        """Set the gradients for a batch and return the numbers of the step."""
        if self.is_wanted is False:
            return self._compute(batch)
        try:
            return self._run(batch)
        except torch.OutOfMemoryError as error:
            # Without a capture, an error of the computation itself.
            if self._recorder is None:
                raise
            self.drop(_first_line(error))
        return self._compute(batch)

    def drop(self, reason: str) -> bool:
        """Release the graphs and use none any more; log the reason. Return whether there were graphs."""
        had_graphs = bool(self._captured)
        self.is_wanted = False
        self._captured.clear()
        self._recorder = None
        for parameter in self._parameters:
            # They lie in the memory of a graph.
            parameter.grad = None
        log.warning("the training step runs without CUDA graphs: %s", reason)
        return had_graphs

    def _run(self, batch: VideoBatch) -> StepGradients:
        size = _signature(batch)
        captured = self._captured.get(size)
        if captured is not None:
            return captured.replay(batch, self._parameters)
        self._calls[size] += 1
        if self._calls[size] <= _WARM_UP_CALLS:
            return self._compute(batch)
        if self.is_wanted is None:
            result, busy = timed_launches(lambda: self._compute(batch))
            self._busy.append(busy)
            if len(self._busy) == _TIMED_CALLS:
                self.is_wanted = is_launch_bound(self._busy)
            return result
        return self._capture(batch, size)

    def _capture(self, batch: VideoBatch, size: Any) -> StepGradients:
        """Take an ordinary step and capture a graph for the later ones of this size."""
        # A second graph shares the memory of the first one.
        if not self._captured and (reason := missing_memory()):
            self.drop(reason)
            return self._compute(batch)
        recorder = self._recorder = self._recorder or _shared_recorder()
        result, waits = recorder.rehearse(lambda: self._compute(batch))
        if waits:
            self.drop("it reads values of the GPU in Python")
            return self._compute(batch)
        gradients = [parameter.grad for parameter in self._parameters]
        inputs = _copy(batch)
        try:
            replay, outputs = recorder.record(lambda: self._compute(inputs))
        # All types that PyTorch raises for a failed capture are derived from this one.
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError):
                forbid(_first_line(error))
            self.drop(_first_line(error))
        else:
            own = [parameter.grad for parameter in self._parameters]
            self._captured[size] = _CapturedStep(replay, inputs, outputs, own)
            _captures.append(batch.num_videos)
        # Those of this step: a capture computes nothing.
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return result


@dataclasses.dataclass(frozen=True)
class _CapturedStep:
    """Graph of a step for one size of a batch, with the tensors that it reads and writes."""

    replay_graph: Callable[[], None]
    inputs: VideoBatch
    outputs: StepGradients
    gradients: list[Tensor | None]

    def replay(self, batch: VideoBatch, parameters: Sequence[nn.Parameter]) -> StepGradients:
        for name, value in _tensors(batch).items():
            getattr(self.inputs, name).copy_(value)
        self.replay_graph()
        # Each graph has gradients of its own. The optimiser reads those of the last one.
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient
        # Cloned: the next step overwrites the outputs.
        terms = {name: term.clone() for name, term in self.outputs.terms.items()}
        return StepGradients(terms, self.outputs.norm.clone(), self.outputs.is_finite.clone())


class Recorder:
    """Capture of CUDA graphs that share their memory, and must never be launched at once."""

    def __init__(self) -> None:
        # The graphs of ended runs lie in cycles. Destroying one waits for the GPU, which spoils a capture.
        gc.collect()
        self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def rehearse(self, run: Callable[[], StepGradients]) -> tuple[StepGradients, bool]:
        """Run on the stream of the capture. Return the result and whether Python waited for the GPU.

        A wait would spoil a capture, and with it the state of PyTorch's random generator.
        """
        # Blocks that the allocator keeps for one stream do not serve another.
        torch.cuda.empty_cache()
        self._stream.wait_stream(torch.cuda.current_stream())
        with _noted_waits() as waits, torch.cuda.stream(self._stream):
            result = run()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result, bool(waits)

    def record(self, run: Callable[[], StepGradients]) -> tuple[Callable[[], None], StepGradients]:
        """Capture a graph. Return a function that launches it, and its outputs.

        Raises:
            RuntimeError: It cannot be captured, or memory does not suffice.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads copy the next batch meanwhile, which the default mode takes for an error.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = run()
        return graph.replay, outputs


_recorder: weakref.ref[Recorder] | None = None


def _shared_recorder() -> Recorder:
    """Return the recorder of the graphs that this process has, or a new one.

    The runs of a cross-validation take their steps in turn, and their graphs need the memory of one step.
    PyTorch refuses a memory pool without graphs, so that the recorder ends with the last run.
    """
    global _recorder
    recorder = _recorder() if _recorder else None
    if recorder is None:
        recorder = Recorder()
        _recorder = weakref.ref(recorder)
    return recorder


def timed_launches(run: Callable[[], _Result]) -> tuple[_Result, float]:
    """Return the result of a step, and for which share of its time the GPU computes after the last launch.

    With launches that take the time, the GPU ends with them. Otherwise the host is ahead of it.
    """
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = run()
    launched = time.perf_counter()
    torch.cuda.synchronize()
    ended = time.perf_counter()
    return result, (ended - launched) / (ended - began)


def is_launch_bound(busy: Sequence[float]) -> bool:
    """Return whether launches take the time of steps.

    >>> is_launch_bound([0.02, 0.4, 0.03]), is_launch_bound([0.3, 0.31, 0.02])
    (True, False)

    Args:
        busy: Shares of steps from `timed_launches`. The median counts: a pause of the host is an outlier.
    """
    return sorted(busy)[len(busy) // 2] < _LAUNCH_BOUND


def step_bytes() -> int:
    """Return the memory of a step without the networks, the largest so far."""
    return torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()


def missing_memory() -> str | None:
    """Return a text if the memory of the GPU does not suffice for a graph, or None."""
    # The capture releases what the allocator keeps.
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    needed = int(_SPARE * step_bytes())
    if free >= needed:
        return None
    return f"{binary_size(needed)} of GPU memory are needed, {binary_size(free)} are free"


_failures: list[str] = []
"""Reason of the first failed capture of this process. Later runs do not try again."""
_captures: list[int] = []
"""Numbers of videos for which this process has captured graphs."""


def forbid(reason: str) -> None:
    """Let later runs of this process use no graphs."""
    _failures.append(reason)


def were_used() -> bool:
    """Return whether runs of this process have used graphs, and later ones may."""
    return bool(_captures) and not _failures


@contextlib.contextmanager
def _noted_waits() -> Iterator[list[Any]]:
    """Yield a list that receives a warning for each wait for the GPU inside the block."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waits: list[Any] = []
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
            waits += [each for each in caught if "synchronizing CUDA operation" in str(each.message)]


def _tensors(batch: VideoBatch) -> dict[str, Tensor]:
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in fields.items() if value is not None}


def _signature(batch: VideoBatch) -> tuple[Any, ...]:
    return tuple((name, value.shape, value.dtype) for name, value in _tensors(batch).items())


def _copy(batch: VideoBatch) -> VideoBatch:
    return dataclasses.replace(batch, **{name: value.clone() for name, value in _tensors(batch).items()})


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
