"""Recognizer: a checkpoint that predicts what happens in videos."""

import os
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.data.storage import Place
from evclip_ray.data.video.decode import Part, VideoError
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.batches import Computed, End, OnWindow, checked_count, predict_batches, predict_videos
from evclip_ray.deploy.live import live_views
from evclip_ray.deploy.loading import checked_names, find_device, local_checkpoint
from evclip_ray.deploy.predictions import FailedVideo, Prediction, WindowPrediction
from evclip_ray.deploy.reading import View, read_views
from evclip_ray.deploy.trained_model import TrainedModel
from evclip_ray.deploy.window_scores import WindowScores
from evclip_ray.deploy.windows import WindowLength

# Class lists of `with_classes` that stay loaded.
_CACHED_CLASS_LISTS = 4
_MAX_WORKERS = 8
# Memory of the views that are decoded ahead.
_AHEAD_BYTES = 2**29


class Recognizer:
    """Recognizer of a checkpoint: predicts what happens in videos.

    Several threads may use one recognizer at a time.

    Example::

        recognizer = evclip_ray.Recognizer.load("studies/first/best")
        recognizer.predict("my.mp4").best

    Attributes:
        checkpoint: Folder of the checkpoint.
        experiment: Settings of the training, with overrides.
        classes: Class names in the order of the logits.
        method: The method in evaluation mode.
        device: Device of the method.
        calibration: Calibration of the probabilities; None without one.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.checkpoint, self.experiment, self.device = model.checkpoint, model.experiment, model.device
        self.classes, self.method, self.calibration = model.classes, model.method, model.calibration
        self._model = model
        self._trained = self
        self._others: OrderedDict[tuple[str, ...], Recognizer] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        classes: Sequence[str] | None = None,
        device: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        use_calibration: bool = True,
    ) -> "Recognizer":
        """Load a checkpoint.

        Args:
            source: Folder of a checkpoint, or a URI such as `hf://user/name`, which is downloaded.
            classes: Other class names than those of the training, see `with_classes`.
            device: `"cpu"`, `"cuda"` or `"cuda:1"`; by default the GPU, or else the CPU.
            overrides: Settings by dotted path, such as `{"backbone.pretrained": "clip.safetensors"}`.
            use_calibration: Whether to use the calibration that is stored with the checkpoint.

        Raises:
            ValueError: The folder is not a checkpoint or was written by another version, its frozen weights
                are missing or differ from those of the training, or the device does not exist.
        """
        model = TrainedModel.load(
            local_checkpoint(source),
            device=find_device(device),
            overrides=overrides or {},
            use_calibration=use_calibration,
        )
        recognizer = cls(model)
        return recognizer if classes is None else recognizer.with_classes(classes)

    @property
    def view(self) -> ViewConfig:
        """Sampling and size of the frames of a view."""
        return self.experiment.view

    @property
    def image_size(self) -> int:
        """Side S of the crop that the networks read, and of a mask."""
        return int(self.method.frozen.clip.image_size)

    def with_classes(self, classes: Sequence[str]) -> "Recognizer":
        """Return a recognizer of other classes: the same trained tensors with other class names.

        The names are encoded by CLIP's text tower. The latest class lists stay loaded. A calibration keeps
        its temperature. Its threshold and its conformal sets hold for the classes of the training alone and
        are not used.

        Args:
            classes: N class names, which differ as words.

        Raises:
            ConfigError: There are no names, or two of them read the same.
            ArtifactError: A trained tensor of the method belongs to the classes of the training.
        """
        names = checked_names(classes)
        trained = self._trained
        if names == trained.classes:
            return trained
        with trained._lock:
            if names not in trained._others:
                other = Recognizer(trained._model.with_classes(names))
                other._trained = trained
                trained._others[names] = other
            trained._others.move_to_end(names)
            if len(trained._others) > _CACHED_CLASS_LISTS:
                trained._others.popitem(last=False)
            return trained._others[names]

    def decode(
        self,
        video: Place,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        fps: float | None = None,
    ) -> NDArray[np.uint8]:
        """Decode the view of a video, (T, H, W, 3) uint8, as evaluation does.

        Args:
            video: Path or URI of a file or of a folder of frames.
            start_seconds: Start of the part of the video; None for its beginning.
            end_seconds: End of the part, exclusive; None for its end.
            fps: Frames per second of a folder of frames.

        Raises:
            VideoError: The video cannot be used.
        """
        part = Part(start_seconds=start_seconds, end_seconds=end_seconds, fps=fps)
        return next(read_views(video, self.view, part=part)).frames

    def logits(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the logits (B, N) of B views in one forward pass.

        Args:
            frames: B views (T, H, W, 3) uint8, whose sizes may differ.
        """
        return self._model.forward(frames)[0]

    def predict_frames(
        self, frames: Sequence[NDArray[np.uint8]], *, top_k: int = 5, masks: bool = False
    ) -> list[WindowPrediction]:
        """Return the predictions for B decoded views, in one forward pass. Their times are 0.

        Args:
            frames: As in `logits`.
            top_k: Number of classes in a prediction.
            masks: Whether to return the masks of a method that has some.
        """
        views = [View(0.0, 0.0, each, 0.0, len(each)) for each in frames]
        return self._windows(views, WindowScores(self.classes, self.calibration, top_k), masks=masks)

    def predict(
        self,
        video: Place,
        *,
        top_k: int = 5,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        masks: bool = False,
        fps: float | None = None,
    ) -> Prediction:
        """Predict what happens in a video: in one view of all of it, or in windows.

        Args:
            video: Path or URI of a file or of a folder of frames.
            top_k: Number of classes in a prediction.
            window_seconds: Length of a window; None for the view of the training over the whole video.
            stride_seconds: Seconds between the starts of two windows; by default a window.
            start_seconds: Start of the part of the video; None for its beginning.
            end_seconds: End of the part, exclusive; None for its end.
            masks: Whether to return the masks of a method that has some.
            fps: Frames per second of a folder of frames, which windows need.

        Raises:
            VideoError: The video cannot be used.
            ConfigError: A length or `top_k` is out of range.
        """
        part = Part(start_seconds=start_seconds, end_seconds=end_seconds, fps=fps)
        windows = WindowLength.of(window_seconds, stride_seconds)
        scores = WindowScores(self.classes, self.calibration, top_k)
        events = self._events([video], part, windows, scores, masks=masks, workers=1)
        (result,) = predict_videos(events, scores)
        if isinstance(result, VideoError):
            raise result
        return result

    def predict_windows(
        self,
        video: Place,
        *,
        top_k: int = 5,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        masks: bool = False,
        fps: float | None = None,
    ) -> Iterator[WindowPrediction]:
        """Yield the windows of `predict` as they are computed, so that masks of a long video fit in memory.

        Args:
            video: As in `predict`.
            top_k: As in `predict`.
            window_seconds: As in `predict`.
            stride_seconds: As in `predict`.
            start_seconds: As in `predict`.
            end_seconds: As in `predict`.
            masks: As in `predict`.
            fps: As in `predict`.

        Raises:
            VideoError: The video cannot be used. The windows before the damage were yielded.
            ConfigError: A length or `top_k` is out of range.
        """
        part = Part(start_seconds=start_seconds, end_seconds=end_seconds, fps=fps)
        windows = WindowLength.of(window_seconds, stride_seconds)
        scores = WindowScores(self.classes, self.calibration, top_k)
        for event in self._events([video], part, windows, scores, masks=masks, workers=1):
            if isinstance(event, Computed):
                yield event.window
            elif event.error is not None:
                raise event.error

    def predict_many(
        self,
        videos: Iterable[Place],
        *,
        top_k: int = 5,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        masks: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        fps: float | None = None,
        on_window: OnWindow | None = None,
    ) -> Iterator[Prediction | FailedVideo]:
        """Yield the predictions for videos, in order. Threads decode the next ones at the same time.

        A video that cannot be used gives a `FailedVideo`. Lost storage and used-up memory are raised.

        Args:
            videos: Paths or URIs.
            top_k: As in `predict`.
            window_seconds: As in `predict`.
            stride_seconds: As in `predict`.
            masks: As in `predict`.
            batch_size: Views per forward pass; by default `optim.eval_batch_size` of the training.
            workers: Number of decoding threads; by default the CPUs of this machine, at most 8.
            fps: Frames per second of folders of frames.
            on_window: Called with each window as soon as it is computed, as the progress in a long video.

        Raises:
            ConfigError: A length, `top_k`, `batch_size` or `workers` is out of range.
        """
        windows = WindowLength.of(window_seconds, stride_seconds)
        scores = WindowScores(self.classes, self.calibration, top_k)
        events = self._events(
            videos, Part(fps=fps), windows, scores, masks=masks, batch_size=batch_size, workers=workers
        )
        for result in predict_videos(events, scores, on_window):
            if isinstance(result, VideoError):
                yield FailedVideo(str(result.path), result.reason)
            else:
                yield result

    def stream(
        self,
        frames: Iterable[NDArray[np.uint8]],
        *,
        fps: float,
        window_seconds: float,
        stride_seconds: float | None = None,
        top_k: int = 5,
        masks: bool = False,
    ) -> Iterator[WindowPrediction]:
        """Yield a prediction as soon as a window is full, from frames that arrive one by one.

        Windows are placed as in a file. Only the frames of the current window are in memory.

        Args:
            frames: Frames (H, W, 3) uint8 RGB.
            fps: Frames per second.
            window_seconds: Length of a window.
            stride_seconds: Seconds between the starts of two windows; by default a window.
            top_k: Number of classes in a prediction.
            masks: Whether to return the masks of a method that has some.

        Raises:
            ConfigError: A rate, a length or `top_k` is out of range.
        """
        windows = WindowLength.checked(window_seconds, stride_seconds)
        scores = WindowScores(self.classes, self.calibration, top_k)
        for view in live_views(frames, self.view, fps=fps, windows=windows):
            yield from self._windows([view], scores, masks=masks)

    def _events(
        self,
        videos: Iterable[Place],
        part: Part,
        windows: WindowLength | None,
        scores: WindowScores,
        *,
        masks: bool,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Computed | End]:
        def read(video: Place) -> Generator[View, None, None]:
            return read_views(video, self.view, part=part, windows=windows)

        return predict_batches(
            videos,
            read,
            lambda views: self._windows(views, scores, masks=masks),
            batch_size=checked_count("batch_size", batch_size, self.experiment.optim.eval_batch_size),
            workers=checked_count("workers", workers, min(os.cpu_count() or 1, _MAX_WORKERS)),
            is_windowed=windows is not None,
            max_ahead=_AHEAD_BYTES // self.view.num_bytes,
        )

    def _windows(self, views: Sequence[View], scores: WindowScores, *, masks: bool) -> list[WindowPrediction]:
        logits, computed = self._model.forward([view.frames for view in views], masks=masks)
        shown = [None] * len(views) if computed is None else computed
        return [
            scores.window(row, view.start_seconds, view.end_seconds, mask=mask)
            for view, row, mask in zip(views, logits, shown, strict=True)
        ]
