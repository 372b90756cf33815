"""Folders of frame images that are read as videos: `img_00001.jpg`, `frame_0000000001.jpg`, `1.png`, ...

Frame k of the video is the k-th image by number. Numbers start at 0 or 1 and have no gaps. Only requested
frames are read. A folder has no times of its own; its manifest row may give the frames per second.
"""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from evclip_ray.data import storage
from evclip_ray.data.storage import Place
from evclip_ray.data.video.orientation import Orientation
from evclip_ray.data.video.packet_index import FrameIndex
from evclip_ray.data.video.reader import DEFAULT_FPS, Convert, VideoError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))

_NUMBERED = re.compile(r"(?P<head>.*?)(?P<number>\d+)(?P<suffix>\.[A-Za-z]+)", re.ASCII)
# Optical flow is often stored in the folder of its frames; hidden files are leftovers of copying.
_NOT_FRAMES = ("flow", ".")


def frame_names(names: Iterable[str]) -> list[str]:
    """Return the names of frames in order of their numbers; empty if no image is numbered.

    >>> frame_names(["img_10.jpg", "img_9.jpg", "flow_x_9.jpg", "cover.jpg", "notes.txt"])
    ['img_9.jpg', 'img_10.jpg']

    Raises:
        ValueError: the images follow two naming patterns.
    """
    patterns: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match and match["suffix"].lower() in IMAGE_SUFFIXES and not name.startswith(_NOT_FRAMES):
            key = match["head"], match["suffix"].lower()
            # The number is compared as an integer: as text, img_10 would come before img_9.
            patterns.setdefault(key, []).append((int(match["number"]), name))
    if len(patterns) > 1:
        one, other = (min(images)[1] for images in list(patterns.values())[:2])
        raise ValueError(f"holds images of two patterns, such as {one!r} and {other!r}; keep only the frames")
    return [name for images in patterns.values() for _, name in sorted(images)]


def missing_frame(names: Sequence[str]) -> str | None:
    """Return a description of the gap or repeat in the numbers of `frame_names`, or None."""
    previous: str | None = None
    for name in names:
        number = _number(name)
        if previous is None:
            if number > 1:
                return (
                    f"{_renumbered(name, 1)} is missing: frames must start at 0 or 1, these start at {number}"
                )
        elif number == _number(previous):
            return f"{previous} and {name} have the same number; remove one"
        elif number != _number(previous) + 1:
            return f"{_renumbered(previous, _number(previous) + 1)} is missing; extract the frames again"
        previous = name
    return None


def _number(name: str) -> int:
    match = _NUMBERED.fullmatch(name)
    assert match is not None
    return int(match["number"])


def _renumbered(name: str, number: int) -> str:
    match = _NUMBERED.fullmatch(name)
    assert match is not None
    return f"{match['head']}{number:0{len(match['number'])}d}{match['suffix']}"


class FrameFolder:
    """Open folder of frames, with the interface of `VideoReader`.

    Args:
        path: Path or URI of the folder.
        fps: Frames per second. Without it `timed` is false and `index.seconds` are meaningless.

    Raises:
        VideoError: no image is numbered, there are two naming patterns, or a number is missing.
        StorageError: the storage cannot be read.
    """

    declared_seconds: float | None = None
    pixel_aspect = Fraction(1)
    is_decoded = False

    def __init__(self, path: Place, *, fps: float | None = None) -> None:
        self.path, self.timed = path, fps is not None
        self.fps = fps or DEFAULT_FPS
        self._names = _frames_of(path, path.stat().st_mtime_ns if isinstance(path, Path) else 0)
        self._size: tuple[int, int] | None = None
        count = len(self._names)
        # Every image decodes on its own, so each frame is a key frame.
        self.index = FrameIndex(np.arange(count) / self.fps, None, np.arange(count))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def codec(self) -> str:
        """Image format, e.g. "jpg"."""
        return self._names[0].rpartition(".")[2].lower()

    @property
    def width(self) -> int:
        """Size in pixels, upright."""
        return self._first_size[0]

    @property
    def height(self) -> int:
        """Size in pixels, upright."""
        return self._first_size[1]

    def orientation(self) -> Orientation:
        """Return the orientation of the frames, which are read upright."""
        return Orientation(0, mirrored=False)

    def decode_all(
        self, indices: Sequence[int], convert: Convert
    ) -> tuple[int, dict[int, NDArray[np.uint8]]]:
        """Decode every frame, as `VideoReader.decode_all` does.

        Raises:
            VideoError: a frame does not decode, or its size differs from that of the first.
        """
        for name in self._names:
            self._image(name)
        return len(self._names), self.read(indices, convert)

    def read(self, indices: Sequence[int], convert: Convert) -> dict[int, NDArray[np.uint8]]:
        """Return index -> `convert(frame)` for the given frames; only their images are read.

        Raises:
            VideoError: one of these frames does not decode or has another size.
        """
        return dict(self.stream(indices, convert))

    def stream(self, indices: Sequence[int], convert: Convert) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield index and `convert(frame)` in increasing order, as `VideoReader.stream` does.

        Raises:
            VideoError: as in `read`.
        """
        for index in sorted(set(indices)):
            yield index, convert(av.VideoFrame.from_ndarray(self._image(self._names[index]), format="rgb24"))

    @property
    def _first_size(self) -> tuple[int, int]:
        if self._size is None:
            self._image(self._names[0])
        assert self._size is not None
        return self._size

    def _image(self, name: str) -> NDArray[np.uint8]:
        """Read an image as (H, W, 3) RGB, rotated upright by its EXIF orientation."""
        where = storage.locate(self.path, name)
        try:
            with Image.open(io.BytesIO(storage.read_bytes(where))) as image:
                # Pillow's conversion to RGB clips such values at 255 instead of scaling them.
                if image.mode.startswith(("I", "F")):
                    raise VideoError(
                        self.path, f"frame {name} has more than 8 bits per colour; convert it to 8 bits"
                    )
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (storage.StorageError, VideoError):
            raise
        except FileNotFoundError:
            raise VideoError(self.path, f"frame {name} went missing") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            raise VideoError(self.path, f"frame {name} does not decode ({type(error).__name__})") from None
        # The first image that is read sets the size for all others.
        self._size = self._size or upright.size
        if upright.size != self._size:
            one, other = ("x".join(map(str, size)) for size in (upright.size, self._size))
            raise VideoError(
                self.path, f"frame {name} is {one} but others are {other}; resize them to one size"
            )
        return np.asarray(upright)


# Many rows may be parts of one long video, and listing its folder takes longer than reading the frames.
# `_modified` is only a key of the cache: a folder's modification time changes when files are added or
# removed.
@functools.lru_cache(maxsize=4)
def _frames_of(path: Place, _modified: int) -> tuple[str, ...]:
    try:
        names = frame_names(storage.file_names(path))
    except storage.StorageError:
        raise
    except (OSError, ValueError) as error:
        raise VideoError(path, getattr(error, "strerror", None) or str(error)) from None
    if not names:
        raise VideoError(path, "is a folder without numbered images; name the frames like img_00001.jpg")
    problem = missing_frame(names)
    if problem:
        raise VideoError(path, problem)
    return tuple(names)
