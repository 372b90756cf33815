"""True masks of a video: the pixels of the acting figure, by hand or by a simulation.

The column `mask` of a manifest names, relative to the manifest's root or as a URI, one of

    masks/a.npz     array `mask`: (N, H, W), one mask for each of the N frames of the file, or (H, W)
    masks/a.png     one mask for all frames
    masks/a/        folder of N numbered images, 00001.png, 00002.png, ...

N counts the frames of the whole file (or folder of frames), also where a row is a part of it. Masks are
upright, as players show the video, and have the video's aspect ratio; their resolution may differ.

Values: false and true; 0 and 1; or 0 to 255 for soft edges. Floats are 0 to 1. In an image with a palette,
every colour but number 0 belongs to the figure.
"""

import dataclasses
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from evclip_ray.artifacts import replacing
from evclip_ray.data import storage
from evclip_ray.data.storage import Place
from evclip_ray.data.video.decode import Fitting, Part, VideoInfo, describe, open_video, part_of
from evclip_ray.data.video.frame_folder import IMAGE_SUFFIXES, frame_names, missing_frame
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import counted

Mask = NDArray[np.uint8]

ARRAY = "mask"
"""Name of the array in a .npz file."""


class MaskError(ValueError):
    """A mask that cannot be used; `reason` is one line."""

    def __init__(self, path: Place, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Masks:
    """True masks of one video.

    Attributes:
        path: Where they are from.
        height: Height in pixels.
        width: Width in pixels.
        num_frames: N; None if one mask holds for all frames.
    """

    path: Place
    height: int
    width: int
    num_frames: int | None
    _read: Callable[[int], Mask]

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Mask:
        """Return the masks of frames, (len(indices), H, W) from 0 to 255.

        Raises:
            MaskError: An image does not decode or has another size.
        """
        return np.stack([self._read(int(index)) for index in indices])

    def require_fit(self, info: VideoInfo) -> None:
        """Check that the masks belong to a video.

        Raises:
            MaskError: The number of frames or the aspect ratio differs.
        """
        if self.num_frames is not None and self.num_frames != info.num_frames:
            raise MaskError(
                self.path,
                f"holds the masks of {counted(self.num_frames, 'frame')}, but the video has "
                f"{info.num_frames}; write one mask for each frame of the file",
            )
        # Sizes are whole pixels, so the aspect of smaller masks is exact to one pixel only.
        if (
            abs(self.width - self.height * info.width / info.height) >= 1
            and abs(self.height - self.width * info.height / info.width) >= 1
        ):
            raise MaskError(
                self.path,
                f"the masks are {self.width}x{self.height} pixels (width x height), which is another aspect "
                f"ratio than the upright video's {info.width}x{info.height}; write them at the video's size",
            )


def write_masks(path: Path, masks: NDArray[Any]) -> None:
    """Write masks as a compressed .npz file, atomically. Equal masks give equal bytes.

    Args:
        path: File with the suffix .npz.
        masks: (N, H, W) for the N frames of a video, or (H, W) for all of them; bool, uint8 from 0 to 255, or
            float from 0 to 1.

    Raises:
        MaskError: The name, the shape or a value is invalid.
    """
    if path.suffix != ".npz":
        raise MaskError(path, f"the name of a file of masks ends with .npz, got {path.suffix!r}")
    array = _checked(path, masks)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, mask=array)


def open_masks(where: Place) -> Masks:
    """Open the masks that a manifest names.

    Args:
        where: A .npz file, an image, or a folder of numbered images; a path or URI.

    Raises:
        MaskError: There is no such file, or it cannot be read as masks.
        StorageError: The storage cannot be read.
    """
    if storage.is_folder(where):
        return _open_folder(where)
    suffix = PurePosixPath(str(where)).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        image = _read_image(where, where)
        return Masks(where, image.shape[0], image.shape[1], None, lambda _: image)
    if suffix != ".npz":
        kinds = "a .npz file, an image or a folder of numbered images"
        raise MaskError(
            where, f"{'has the suffix ' + repr(suffix) if suffix else 'is not there'}; give {kinds}"
        )
    array = _read_npz(where)
    if array.ndim == 2:
        return Masks(where, array.shape[0], array.shape[1], None, lambda _: array)
    return Masks(where, array.shape[1], array.shape[2], len(array), lambda index: array[index])


def masks_of_view(
    masks: Place,
    video: Place,
    *,
    view: ViewConfig,
    size: tuple[int, int],
    seed: int | None = None,
    offset: float = 0.5,
    **part: Unpack[Part],
) -> Mask:
    """Return the true masks of the frames of one view, at the size at which the frames are stored.

    The same frames are chosen as by `decode_views`, and the masks are resized and cropped by the same code.

    Args:
        masks: As in `open_masks`.
        video: The video.
        view: Sampling and size of the stored frames.
        size: Height and width of the video's stored frames in pixels.
        seed: Seed of the view, as in `frame_indices`.
        offset: As in `frame_indices`.
        **part: Part of the video that the row is.

    Returns:
        (T, H, W) from 0 to 255.

    Raises:
        MaskError: The masks cannot be read or do not belong to the video.
        VideoError: The video cannot be read.
    """
    opened = open_masks(masks)
    with open_video(video, fps=part.get("fps")) as reader:
        first, last = part_of(reader, part)
        opened.require_fit(describe(reader))
    indices = first + frame_indices(last - first, view=view, seed=seed, offset=offset)
    fitting = Fitting(view)
    # The stored size follows from that of the video, from which a smaller mask's can differ by a pixel.
    fitting.size = size
    planes = [np.repeat(mask[..., None], 3, axis=2) for mask in opened.read(indices)]
    return np.stack([fitting(VideoFrame.from_ndarray(plane, format="rgb24"))[..., 0] for plane in planes])


def _open_folder(where: Place) -> Masks:
    try:
        names = frame_names(storage.file_names(where))
    except storage.StorageError:
        raise
    except (OSError, ValueError) as error:
        raise MaskError(where, getattr(error, "strerror", None) or str(error)) from None
    problem = missing_frame(names) if names else "is a folder without numbered images"
    if problem:
        raise MaskError(where, problem)

    def read(index: int) -> Mask:
        mask = _read_image(where, storage.locate(where, names[index]))
        if mask.shape != size:
            one, other = (f"{shape[1]}x{shape[0]}" for shape in (mask.shape, size))
            raise MaskError(where, f"mask {names[index]} is {one} but {names[0]} is {other}")
        return mask

    size = _read_image(where, storage.locate(where, names[0])).shape
    return Masks(where, size[0], size[1], len(names), read)


def _read_npz(where: Place) -> Mask:
    try:
        with np.load(io.BytesIO(_read_bytes(where, where))) as arrays:
            if ARRAY not in arrays:
                named = ", ".join(arrays) or "no array"
                raise MaskError(where, f"must hold the array {ARRAY!r}, it has {named}")
            array = arrays[ARRAY]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, storage.StorageError | MaskError):
            raise
        raise MaskError(where, f"cannot be read as .npz ({error or type(error).__name__})") from None
    return _checked(where, array)


def _read_image(path: Place, where: Place) -> Mask:
    """Read an image as (H, W) from 0 to 255. `path` is that of the masks, `where` that of the image."""
    name = "" if where == path else f"{PurePosixPath(str(where)).name} "
    try:
        with Image.open(io.BytesIO(_read_bytes(path, where))) as image:
            upright = ImageOps.exif_transpose(image)
            # The numbers of a palette are labels, and its colours are for display only.
            if upright.mode in ("P", "1"):
                return np.where(np.asarray(upright) > 0, np.uint8(255), np.uint8(0))
            if upright.mode.startswith(("I", "F")):
                raise MaskError(path, f"{name}has more than 8 bits; save it as an 8-bit grey image")
            channels = np.asarray(upright.convert("RGB"))
    except (storage.StorageError, MaskError):
        raise
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise MaskError(path, f"{name}does not decode ({type(error).__name__})") from None
    # The brightness of a colour is not a mask: pure red would be outside the figure.
    if (channels != channels[..., :1]).any():
        raise MaskError(path, f"{name}is a colour image; save it as a grey image or with a palette")
    return _checked(path, channels[..., 0])


def _read_bytes(path: Place, where: Place) -> bytes:
    try:
        return storage.read_bytes(where)
    except FileNotFoundError:
        raise MaskError(path, "is not there; check the column `mask` and the root") from None


def _checked(path: Place, array: NDArray[Any]) -> Mask:
    """Return masks as uint8 from 0 to 255."""
    if array.ndim not in (2, 3) or not array.size:
        raise MaskError(path, f"masks must be (N, H, W) or (H, W), got {array.shape}")
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        # NaN fails both comparisons.
        if not ((array >= 0) & (array <= 1)).all():
            raise MaskError(path, "masks of floats must be 0 to 1; divide them by their largest value")
        soft: Mask = np.rint(array * 255).astype(np.uint8)
        return soft
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise MaskError(path, f"masks must be bool, 0 to 255 or floats from 0 to 1, got {array.dtype}")
    mask: Mask = array.astype(np.uint8)
    # Labels 0 and 1: as a soft mask, a largest value of 1 of 255 would mean no figure at all.
    if mask.max() == 1:
        mask *= np.uint8(255)
    return mask
