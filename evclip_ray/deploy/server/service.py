"""Recognition of one uploaded video: decoding in another process, batches across requests, overlays."""

import asyncio
import base64
import dataclasses
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evclip_ray.config import Config
from evclip_ray.deploy.predictions import Prediction, WindowPrediction
from evclip_ray.deploy.reading import View
from evclip_ray.deploy.server.batching import Batcher
from evclip_ray.deploy.server.decoding import DecodePool
from evclip_ray.deploy.server.limits import ClassName, Limits, Refusal
from evclip_ray.deploy.server.metrics import Metrics
from evclip_ray.deploy.window_scores import WindowScores
from evclip_ray.formatting import counted

if TYPE_CHECKING:
    from evclip_ray.deploy.recognizer import Recognizer

_JPEG_QUALITY = 85
_Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Options(Config):
    """Parameters of a request. The descriptions are those of the page /docs."""

    top_k: int = Field(
        default=5, ge=1, le=1000, description="Number of classes in each prediction, best first."
    )
    window: _Seconds | None = Field(
        default=None, description="Length of a window in seconds. Without it, one view of the whole video."
    )
    stride: _Seconds | None = Field(
        default=None, description="Seconds between the starts of two windows. By default a window."
    )
    classes: tuple[ClassName, ...] | None = Field(
        default=None,
        min_length=1,
        description="Class names instead of those of the checkpoint, where the method allows it. In a form, "
        "one field per name.",
    )
    masks: bool = Field(default=False, description="Whether windows have a picture of their mask.")


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Prediction of a video, and a picture of the mask of each window as JPEG; None without a mask."""

    prediction: Prediction
    overlays: tuple[bytes | None, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the record of the prediction; windows with a mask have its picture as a data URI."""
        record = self.prediction.record()
        for window, overlay in zip(record["windows"], self.overlays, strict=False):
            if overlay is not None:
                window["overlay"] = "data:image/jpeg;base64," + base64.b64encode(overlay).decode()
        return record


class RecognitionService:
    """Recognition of uploaded videos by one recognizer.

    Args:
        recognizer: Loaded recognizer.
        limits: Limits of a video.
        metrics: Metrics of this replica.
        batch_size: Most views in one forward pass.
        decoders: Number of processes that decode.
    """

    def __init__(
        self,
        recognizer: "Recognizer",
        *,
        limits: Limits,
        metrics: Metrics,
        batch_size: int = 8,
        decoders: int = 2,
    ) -> None:
        self._recognizer, self._limits, self._batch_size = recognizer, limits, batch_size
        self._pool = DecodePool(decoders, recognizer.view, limits, metrics)
        self._batcher = Batcher(self._predict, size=batch_size, metrics=metrics)

    async def start(self) -> None:
        """Start the processes that decode."""
        await self._pool.start()

    async def close(self) -> None:
        """End the processes."""
        self._batcher.close()
        await self._pool.close()

    def info(self) -> dict[str, Any]:
        """Return what a client may want to know: classes, method and limits."""
        recognizer = self._recognizer
        return {
            "method": recognizer.experiment.method.name,
            "backbone": recognizer.experiment.backbone.name,
            "classes": list(recognizer.classes),
            "calibrated": recognizer.calibration is not None,
            "limits": self._limits.model_dump(mode="json"),
        }

    async def recognize(self, path: Path, name: str, options: Options) -> Answer:
        """Recognise a video.

        Args:
            path: The video.
            name: Its name in the answer.
            options: Parameters of the request.

        Raises:
            Refusal: The video or a parameter cannot be used.
        """
        if options.stride is not None and options.window is None:
            raise Refusal(422, "stride needs the length of a window; give window too")
        if len(options.classes or ()) > self._limits.classes:
            raise Refusal(
                422, f"{counted(len(options.classes or ()), 'class')}, the limit is {self._limits.classes}"
            )
        recognizer = await self._with_classes(options.classes)
        views, computed = list[View](), list["asyncio.Task[_Computed]"]()
        try:
            async with aclosing(
                self._pool.read(path, window=options.window, stride=options.stride)
            ) as decoded:
                async for view in decoded:
                    # Their frames are in memory until they are computed.
                    views.append(dataclasses.replace(view, frames=_NO_FRAMES))
                    key = (recognizer, options.masks)
                    computed.append(asyncio.create_task(self._batcher.submit(key, view.frames)))
                    if len(computed) > 2 * self._batch_size:
                        await computed[-2 * self._batch_size]
            results = await asyncio.gather(*computed)
        except Refusal as error:
            raise Refusal(error.status, f"{name}: {error.reason}") from None
        finally:
            for task in computed:
                task.cancel()
        windows = [
            dataclasses.replace(
                window,
                start_seconds=view.start_seconds,
                end_seconds=view.end_seconds,
                scores=window.scores[: options.top_k],
            )
            for view, (window, _) in zip(views, results, strict=True)
        ]
        scores = WindowScores(recognizer.classes, recognizer.calibration, options.top_k)
        prediction = scores.video(
            name, windows, duration_seconds=views[-1].duration_seconds, num_frames=views[-1].num_frames
        )
        return Answer(prediction, tuple(overlay for _, overlay in results))

    async def _with_classes(self, classes: Sequence[str] | None) -> "Recognizer":
        if classes is None:
            return self._recognizer
        try:
            return await asyncio.to_thread(self._recognizer.with_classes, classes)
        # Names that read the same, or a method that knows its own classes only.
        except ValueError as error:
            raise Refusal(422, f"classes: {error}") from None

    def _predict(
        self, key: tuple["Recognizer", bool], frames: Sequence[NDArray[np.uint8]]
    ) -> list["_Computed"]:
        """Compute a batch, in a thread. Each request takes its own number of classes from the result."""
        recognizer, masks = key
        windows = recognizer.predict_frames(frames, top_k=len(recognizer.classes), masks=masks)
        return [
            # Drawn here, because a picture is a hundredth of the size of its mask and frames.
            (dataclasses.replace(window, mask=None), _overlay(view, window.mask))
            for view, window in zip(frames, windows, strict=True)
        ]


_Computed = tuple[WindowPrediction, bytes | None]
_NO_FRAMES = np.empty(0, np.uint8)


def _overlay(frames: NDArray[np.uint8], mask: NDArray[np.float32] | None) -> bytes | None:
    """Return the middle frame of a view with the mask on it, as JPEG; None without a mask."""
    if mask is None:
        return None
    import cv2

    from evclip_ray.data.transforms import crop_box
    from evclip_ray.deploy.drawing import blend, heat_map

    picture = frames[len(frames) // 2].copy()
    top, left, side = crop_box(*picture.shape[:2])
    part = picture[top : top + side, left : left + side]
    part[:] = blend(np.ascontiguousarray(part), heat_map(mask, side, side))
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    return encoded.tobytes()
