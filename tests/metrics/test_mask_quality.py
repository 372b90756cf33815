"""Mask quality against a slow definition, worked examples, and the true masks of decoded views."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.masks import write_masks
from evclip_ray.data.video.decode import decode_views
from evclip_ray.data.video.sampling import spread_offsets
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.metrics.mask_quality import (
    average_precision,
    figure_of,
    mask_quality_lines,
    pointing_game,
    score_masks,
    video_mask_quality,
)
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.models.batch import MethodOutput


def slow_average_precision(mask, figure):
    """Return the sum over thresholds of the increase of the recall times the precision, pixel by pixel."""
    scores = np.broadcast_to(mask, figure.shape).ravel()
    labels, before, total = figure.ravel(), 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        recall = labels[chosen].sum() / labels.sum()
        total += (recall - before) * labels[chosen].mean()
        before = recall
    return total


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_equals_its_slow_definition(levels):
    random = np.random.default_rng(levels)
    for _ in range(20):
        mask = (random.integers(0, levels, (7, 7)) / levels).astype(np.float32)
        figure = random.random((4, 7, 7)) < 0.2
        assert average_precision(mask, figure) == pytest.approx(slow_average_precision(mask, figure))


def test_quality_of_a_worked_example():
    mask = np.array([[0.9, 0.6], [0.6, 0.1]], np.float32)
    figure = np.array([[[1, 1], [0, 0]], [[1, 0], [0, 0]]], bool)
    # Above 0.9: 2 of 2 pixels are the figure, 2 of its 3. Above 0.6: 3 of 6, all of its 3.
    quality = video_mask_quality(mask, figure)
    assert quality.average_precision == pytest.approx(2 / 3 * 1 + 1 / 3 * 3 / 6)
    assert quality.base_share == 3 / 8
    assert quality.pointing_game == 1


def test_perfect_and_constant_masks():
    figure = np.zeros((3, 8, 8), bool)
    figure[:, 2:4, 5:7] = True
    assert video_mask_quality(figure[0].astype(np.float32), figure) == (1, 1 / 16, 1)
    # A constant mask has all maxima, so that the pointing game is the share of the figure too.
    assert video_mask_quality(np.ones((8, 8), np.float32), figure) == pytest.approx((1 / 16,) * 3)


def test_affine_map_of_a_mask_changes_nothing():
    random = np.random.default_rng(0)
    mask, figure = random.random((9, 9)), random.random((4, 9, 9)) < 0.3
    opened = 1 - 0.4 * (1 - mask)
    assert video_mask_quality(opened, figure) == pytest.approx(video_mask_quality(mask, figure))


def test_pointing_game_averages_ties_and_skips_frames_without_figure():
    mask = np.array([[1, 1], [0, 0]], np.float32)
    figure = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]], bool)
    assert pointing_game(mask, figure) == pytest.approx((0.5 + 0 + 1) / 3)
    assert np.isnan(pointing_game(mask, np.zeros((2, 2, 2), bool)))
    assert np.isnan(average_precision(mask, np.zeros((2, 2, 2), bool)))


class Shards:
    """Decoded videos in memory, each a folder of frames that shows its own mask."""

    def __init__(self, root, view, num_views):
        self.paths = sorted(path.name for path in root.glob("v*") if path.is_dir())
        self.rows, self.view = np.arange(len(self.paths)), view
        self.ledger = {"inputs": {"seed": None, "num_views": num_views}}
        decode = {"view": view, "seeds": [None] * num_views, "offsets": spread_offsets(num_views)}
        self._frames = [decode_views(root / path, **decode) for path in self.paths]
        self.sizes = np.array([frames.shape[2:4] for frames in self._frames])

    def __len__(self):
        return len(self.paths)

    def frames(self, positions, view=0):
        return [torch.from_numpy(self._frames[position][view]) for position in positions]


class FrameAsMask(torch.nn.Module):
    """Method whose mask is the mean of the frames, or which has no mask."""

    frozen = SimpleNamespace(clip=SimpleNamespace(image_size=28))

    def __init__(self, *, has_mask=True):
        super().__init__()
        self.has_mask = has_mask

    def forward(self, batch):
        mask = batch.pixels.mean(dim=(1, 2)) if self.has_mask else None
        return MethodOutput(torch.zeros(len(batch.pixels), 2), mask=mask)


@pytest.fixture
def root(tmp_path):
    """Write three videos of a bar at rest, of two shapes, with masks for two of them."""
    from PIL import Image

    for video, (height, width) in enumerate([(40, 64), (64, 40), (48, 48)]):
        folder = tmp_path / f"v{video}"
        folder.mkdir()
        frames = np.zeros((6, height, width), np.uint8)
        frames[:, 8 * video + 6 : 8 * video + 20, 10:24] = 255
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number}.png")
        write_masks(tmp_path / f"v{video}.npz", frames)
    return tmp_path


def manifest_of(root, masks):
    import pyarrow as pa

    columns = {"path": ["v0", "v1", "v2"], "label": ["x"] * 3, "mask": pa.array(masks, pa.string())}
    return Manifest(pa.table(columns), root, "manifest.csv")


@pytest.mark.parametrize("views", ["1x1", "2x3"])
@pytest.mark.parametrize("settings", [{"short_side": 32}, {"height": 32, "width": 48, "fit": "stretch"}])
def test_masks_that_equal_the_true_ones_are_perfect(root, views, settings):
    parsed = EvaluationViews.parse(views)
    shards = Shards(root, ViewConfig(num_frames=4, **settings), parsed.temporal)
    manifest = manifest_of(root, ["v0.npz", None, "v2.npz"])
    options = {"device": torch.device("cpu"), "batch_size": 2, "views": parsed}
    quality = score_masks(FrameAsMask(), shards, manifest, **options)
    assert quality.is_scored.tolist() == [True, False, True]
    assert quality.by_video[[0, 2], 0] == pytest.approx(1, abs=0.01)
    assert quality.by_video[[0, 2], 2] == pytest.approx(1)
    assert quality.num_named == 2
    assert quality.skipped == []
    assert score_masks(FrameAsMask(has_mask=False), shards, manifest, **options) is None
    assert score_masks(FrameAsMask(), shards, manifest_of(root, [None] * 3), **options) is None


def test_unusable_masks_are_skipped_with_a_reason(root):
    shards = Shards(root, ViewConfig(num_frames=4, short_side=32), 1)
    write_masks(root / "empty.npz", np.zeros((6, 64, 40), bool))
    manifest = manifest_of(root, ["v0.npz", "empty.npz", "absent.npz"])
    quality = score_masks(FrameAsMask(), shards, manifest, device=torch.device("cpu"), batch_size=3)
    assert quality.is_scored.tolist() == [True, False, False]
    assert [(video["row"], video["path"]) for video in quality.skipped] == [(1, "v1"), (2, "v2")]
    assert "true mask is empty" in quality.skipped[0]["reason"]
    assert "absent.npz: is not there" in quality.skipped[1]["reason"]
    record = quality.record()
    assert (record["videos"], record["named"], record["scored"]) == (3, 3, 1)
    lines = mask_quality_lines(record)
    assert "average precision 1.000" in lines[0]
    assert "over 1 video;" in lines[0]
    assert "2 of them could not be compared" in lines[-1]
    assert "row 2, v1" in lines[-1]


def test_record_without_any_compared_video_has_no_numbers(root):
    shards = Shards(root, ViewConfig(num_frames=4, short_side=32), 1)
    manifest = manifest_of(root, ["absent.npz", None, None])
    quality = score_masks(FrameAsMask(), shards, manifest, device=torch.device("cpu"), batch_size=3)
    record = quality.record()
    assert (record["named"], record["scored"]) == (1, 0)
    assert "average_precision" not in record
    assert mask_quality_lines(record)[0] == "true masks for 1 of 3 videos"


def test_groups_of_skipped_videos_are_not_counted(root):
    shards = Shards(root, ViewConfig(num_frames=4, short_side=32), 1)
    manifest = manifest_of(root, ["v0.npz", "absent.npz", "v2.npz"])
    quality = score_masks(FrameAsMask(), shards, manifest, device=torch.device("cpu"), batch_size=3)
    record = quality.record(np.array([0, 1, 0]))
    assert (record["scored"], record["groups"]) == (2, 1)


def test_masks_of_a_changed_list_are_found_by_their_path(root):
    import pyarrow as pa

    shards = Shards(root, ViewConfig(num_frames=4, short_side=32), 1)
    columns = {"path": ["new", "v2", "v0"], "label": ["x"] * 3, "mask": ["new.npz", "v2.npz", "v0.npz"]}
    manifest = Manifest(pa.table(columns), root, "manifest.csv")
    quality = score_masks(FrameAsMask(), shards, manifest, device=torch.device("cpu"), batch_size=3)
    assert quality.is_scored.tolist() == [True, False, True]
    assert quality.num_named == 2


def test_soft_masks_are_cut_at_half():
    soft = np.zeros((1, 32, 32), np.uint8)
    soft[:, :, :16], soft[:, :, 16:24] = 255, 100
    figure = figure_of(soft, 28)
    assert figure.shape == (1, 28, 28)
    assert figure.mean() == pytest.approx(14 / 28)
