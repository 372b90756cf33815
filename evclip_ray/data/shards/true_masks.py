"""True masks of decoded videos, found by the manifest's column `mask` and mapped as the stored frames are."""

import collections
import functools

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.masks import Mask, MaskError, masks_of_view
from evclip_ray.data.shards.dataset import ShardSet
from evclip_ray.data.shards.format import view_seed
from evclip_ray.data.storage import Place, StorageError
from evclip_ray.data.video.decode import VideoError, open_video, part_in
from evclip_ray.data.video.sampling import spread_offsets


class TrueMasks:
    """True masks of the videos of a set of shards, by their position.

    Shards hold no masks. Which frames they hold follows from the seed of their views, so a mask that is named
    after the decoding needs no second one.

    Args:
        shards: Decoded videos.
        manifest: List of these videos. Its rows are those that were decoded, or rows of the same list as it
            is now; a row that has moved is found by its path.
    """

    def __init__(self, shards: ShardSet, manifest: Manifest) -> None:
        self._shards, self._manifest = shards, manifest

    @property
    def num_named(self) -> int:
        """Number of the videos whose row names a mask."""
        return sum(self.is_named(position) for position in range(len(self._shards)))

    def is_named(self, position: int) -> bool:
        """Return whether a video's row names a mask."""
        row = self._rows[position]
        return row is not None and self._names[row] is not None

    def read(self, position: int, *, view: int = 0) -> Mask:
        """Return the true masks of a view's frames, (T, H, W) from 0 to 255, at the size of the shards.

        Args:
            position: Position of the video, whose row names a mask.
            view: Temporal view.

        Raises:
            MaskError: The masks are missing, cannot be read or do not fit their video.
        """
        row = self._rows[position]
        assert row is not None
        video = self._manifest.table.slice(row, 1).to_pylist()[0]
        masks, path = self._manifest.locate(video["mask"]), self._manifest.locate(video["path"])
        inputs = self._shards.ledger["inputs"]
        offsets = spread_offsets(inputs["num_views"]) if inputs["seed"] is None else [0.5] * (view + 1)
        height, width = self._shards.sizes[position].tolist()
        try:
            if self._shards.view.pixels == "display":
                self._require_square_pixels(masks, path, video["fps"])
            return masks_of_view(
                masks,
                path,
                view=self._shards.view,
                size=(height, width),
                seed=view_seed(inputs["seed"], video, view),
                offset=offsets[view],
                **part_in(video),
            )
        except VideoError as error:
            raise MaskError(masks, f"its video cannot be read now ({error})") from None
        except StorageError as error:
            raise MaskError(masks, str(error)) from None

    @staticmethod
    def _require_square_pixels(masks: Place, path: Place, fps: float | None) -> None:
        with open_video(path, fps=fps) as video:
            if video.pixel_aspect != 1:
                raise MaskError(masks, "the pixels of its video are not square; set view.pixels=stored")

    @functools.cached_property
    def _names(self) -> list[str | None]:
        return self._manifest.column("mask")

    @functools.cached_property
    def _rows(self) -> list[int | None]:
        """Row of each video in the manifest; None if the list no longer has it."""
        if not any(self._names):
            return [None] * len(self._shards)
        paths = self._manifest.column("path")
        by_path: dict[str, list[int]] = collections.defaultdict(list)
        for row, path in enumerate(paths):
            by_path[path].append(row)
        found: list[int | None] = []
        for row, path in zip(self._shards.rows.tolist(), self._shards.paths, strict=True):
            same = by_path[path]
            # Several rows are parts of one file, which a path alone cannot tell apart.
            is_unchanged = row < len(paths) and paths[row] == path
            found.append(row if is_unchanged else same[0] if len(same) == 1 else None)
        return found
