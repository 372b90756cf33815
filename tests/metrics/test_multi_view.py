"""Tests of multi-view evaluation, with a method whose logits are pixel values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from evclip_ray.config import ConfigError
from evclip_ray.metrics.multi_view import EvaluationViews, average_logits, score_views
from evclip_ray.models.batch import MethodOutput


class Shards:
    """Return frames whose red is the column, green ten times the temporal view, blue the video."""

    def __init__(self, num_videos):
        self.num_videos = num_videos
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


def scored(views, num_videos=5, batch_size=2):
    shards = Shards(num_videos)
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
