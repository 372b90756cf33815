"""Tests of multi-view evaluation, with a method whose logits are pixel values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from evclip_ray.config import ConfigError
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.metrics.multi_view import (
    EvaluationViews,
    average_logits,
    coverage_line,
    score_views,
    spatial_coverage,
)
from evclip_ray.models.batch import MethodOutput

FIXED, KEPT = ViewConfig(height=32, width=48), ViewConfig(short_side=32)


class Shards:
    """Return frames whose red is the column, green ten times the temporal view, blue the video."""

    def __init__(self, num_videos, view):
        self.num_videos, self.view = num_videos, view
        self.read = []

    def __len__(self):
        return self.num_videos

    def frames(self, positions, view=0):
        self.read.extend((int(position), view) for position in positions)
        frames = np.zeros((len(positions), 2, 32, 48, 3), np.uint8)
        frames[..., 0] = np.arange(48)
        frames[..., 1] = 10 * view
        frames[..., 2] = np.asarray(positions)[:, None, None, None]
        return frames


class FirstPixel(nn.Module):
    """Method whose logits are the red, green and blue of the first pixel, 0 to 255."""

    frozen = SimpleNamespace(clip=SimpleNamespace(image_size=28))

    def forward(self, batch):
        assert not self.training
        return MethodOutput((batch.pixels[:, 0, :, 0, 0] * 255).round())


def scored(views, num_videos=5, batch_size=2, view=FIXED):
    shards = Shards(num_videos, view)
    labels = np.zeros(num_videos, np.int64)
    scores = score_views(
        FirstPixel(),
        shards,
        labels,
        views=EvaluationViews.parse(views, "logit"),
        device=torch.device("cpu"),
        batch_size=batch_size,
    )
    return scores, shards


def test_single_view_is_centre_crop_of_first_view():
    scores, _ = scored("1x1")
    assert scores.logits.tolist() == [[10, 0, video] for video in range(5)]


@pytest.mark.parametrize("views", ["1x1", "4x3", "5x3", "10x3"])
@pytest.mark.parametrize("batch_size", range(1, 8))
def test_every_view_is_read_once_per_crop(views, batch_size):
    temporal, spatial = map(int, views.split("x"))
    scores, shards = scored(views, num_videos=7, batch_size=batch_size)
    assert len(scores.logits) == 7
    assert scores.logits[:, 2].tolist() == list(range(7))
    expected = [(video, view) for video in range(7) for view in range(temporal)] * spatial
    assert sorted(shards.read) == sorted(expected)


def test_spatial_views_span_longer_side():
    assert EvaluationViews(spatial=3).crop_positions == [0.0, 0.5, 1.0]
    three, _ = scored("1x3")
    assert three.logits[0, 0] == pytest.approx((0 + 10 + 20) / 3)
    temporal, _ = scored("4x1")
    assert temporal.logits[0, 1] == pytest.approx((0 + 10 + 20 + 30) / 4)


def test_spatial_views_of_kept_aspect_have_full_short_side():
    three, _ = scored("1x3", view=KEPT)
    assert three.logits[0, 0] == pytest.approx((0 + 8 + 16) / 3, abs=0.5)
    single, _ = scored("1x1", view=KEPT)
    assert single.logits.tolist() == scored("1x1")[0].logits.tolist()


@pytest.mark.parametrize(
    ("size", "view", "views", "covered", "overlap"),
    [
        ((256, 256), ViewConfig(fit="crop"), "4x3", 7 / 8, 6 / 7),
        ((256, 455), ViewConfig(), "4x3", 1, 57 / 256),
        ((455, 256), ViewConfig(), "4x3", 1, 57 / 256),
        ((256, 341), ViewConfig(), "1x2", 1, 171 / 256),
        ((256, 256), ViewConfig(), "1x3", 1, 1),
        ((256, 768), ViewConfig(), "1x2", 2 / 3, 0),
        ((256, 455), ViewConfig(), "1x1", 224**2 / (256 * 455), 1),
    ],
)
def test_coverage_is_the_union_of_the_crops(size, view, views, covered, overlap):
    coverage = spatial_coverage(np.array([size, size]), view, EvaluationViews.parse(views))
    assert coverage == (pytest.approx(covered), pytest.approx(overlap))


def test_coverage_line_names_share_and_overlap():
    views, sizes = EvaluationViews.parse("4x3"), np.array([[256, 455], [256, 455]])
    line = coverage_line(spatial_coverage(sizes, ViewConfig(), views), ViewConfig(), views)
    assert line == "views 4x3: 3 crops cover 100 % of the picture, the outer two share 22 % of their pixels"
    crop = ViewConfig(fit="crop")
    line = coverage_line(spatial_coverage(sizes[:, [0, 0]], crop, views), crop, views)
    assert "88 % of the stored middle of the picture, the outer two share 86 %" in line
    assert line.endswith("--set view.width=null covers the whole picture")
    single = EvaluationViews()
    line = coverage_line(spatial_coverage(sizes, ViewConfig(), single), ViewConfig(), single)
    assert line == "views 1x1: the centre crop covers 43 % of the picture"


def test_probability_average_is_log_of_mean_softmax():
    logits = np.array([[[2.0, 0.0]], [[0.0, 1.0]]], np.float32)
    mean = torch.from_numpy(logits).softmax(-1).mean(0)
    scores = torch.from_numpy(average_logits(logits, "probability"))
    assert torch.allclose(scores.exp(), mean, atol=1e-6)
    assert average_logits(logits, "logit").tolist() == [[1.0, 0.5]]


def test_confident_view_outweighs_others_in_logits_only():
    logits = np.array([[[100.0, 0.0]], [[0.0, 3.0]], [[0.0, 3.0]]], np.float32)
    assert average_logits(logits, "logit").argmax() == 0
    assert average_logits(logits, "probability").argmax() == 1
    assert np.isfinite(average_logits(logits, "probability")).all()


def test_average_of_single_view_keeps_logits():
    logits = np.array([[[2.0, 0.5]]], np.float32)
    assert (average_logits(logits, "probability") == logits[0]).all()


@pytest.mark.parametrize("text", ["4", "0x3", "4x", "x3", "4 by 3", "-1x3", ""])
def test_malformed_views_raise_with_example(text):
    with pytest.raises(ConfigError, match="for example 4x3"):
        EvaluationViews.parse(text)


def test_unknown_average_raises():
    with pytest.raises(ConfigError, match="probability or logit, got 'median'"):
        EvaluationViews.parse("4x3", "median")


def test_views_print_in_the_form_that_is_parsed():
    assert str(EvaluationViews.parse(" 4x3 ")) == "4x3"
