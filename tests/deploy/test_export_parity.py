"""Comparison of an export with PyTorch."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from evclip_ray.data.video.decode import VideoError
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.export_parity import ComparedVideo, Parity, compare


def parity(*differences, tolerance=1e-3):
    videos = tuple(
        ComparedVideo(str(number), "walk", "walk", difference, difference / 2)
        for number, difference in enumerate(differences)
    )
    return Parity(videos, (), False, tolerance)


@pytest.mark.parametrize(
    ("difference", "tolerance", "passed"),
    [
        (1e-3, 1e-3, True),
        (1.1e-3, 1e-3, False),
        (0.5, None, True),
        (math.nan, 1e-3, False),
        (math.nan, None, False),
        (math.inf, None, False),
    ],
)
def test_parity_passes_within_the_tolerance_only(difference, tolerance, passed):
    assert parity(0.0, difference, tolerance=tolerance).passed is passed


def test_parity_record_is_json_for_infinite_logits():
    record = json.loads(json.dumps(parity(math.inf).record(), allow_nan=False))
    assert record["max_logit_difference"] is None
    assert record["passed"] is False


class Recognizer:
    """Recognizer whose logits are the mean of each colour."""

    view = ViewConfig(num_frames=2, short_side=16)
    classes = ("walk", "run", "wave")

    def decode(self, video):
        if "broken" in video:
            raise VideoError(video, "is not a video")
        return np.full((2, 16, 20, 3), (int(video), 7, 9), np.uint8)

    def logits(self, frames):
        return np.stack([view.mean((0, 1, 2)) for view in frames]).astype(np.float32)


def test_compare_reports_the_videos_whose_class_changes():
    exported = SimpleNamespace(logits=lambda frames: Recognizer().logits(frames) + np.float32([2, 0, 0]))
    result = compare(Recognizer(), exported, ["1", "8", "20", "broken", "30", "40"], tolerance=1e-3)
    assert [video.agrees for video in result.videos] == [True, False, True, True, True]
    assert result.top1_agreement == 0.8
    assert result.max_difference == 2
    assert result.mean_difference == pytest.approx(2 / 3)
    assert [failed.video for failed in result.failed] == ["broken"]
    assert not result.passed


def test_compare_without_videos_uses_equal_random_frames():
    seen = []
    exported = SimpleNamespace(logits=lambda frames: seen.append(frames) or Recognizer().logits(frames))
    results = [compare(Recognizer(), exported, [], tolerance=1e-3) for _ in range(2)]
    assert all(result.is_random and result.passed and len(result.videos) == 8 for result in results)
    assert np.array_equal(seen[0], seen[len(seen) // 2])


def test_compare_with_broken_videos_only_raises():
    with pytest.raises(VideoError, match="No video is left"):
        compare(Recognizer(), None, ["broken"], tolerance=None)
