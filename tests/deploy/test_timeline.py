"""Timelines: hand-made windows with probabilities that can be computed in the head."""

import numpy as np
import pytest

from evclip_ray.deploy.predictions import WindowPrediction
from evclip_ray.deploy.timeline import segment_at, timeline
from evclip_ray.metrics.calibration import Calibration

CLASSES = ("kick", "push")


def window(start, end, kick):
    """Return a window in which `kick` has this probability."""
    logits = np.log(np.array([kick, 1 - kick], np.float32))
    return WindowPrediction(start, end, (), logits)


def facts(segments):
    return [
        (round(segment.start_seconds, 3), round(segment.end_seconds, 3), segment.name) for segment in segments
    ]


def test_equal_neighbours_are_one_segment():
    segments = timeline([window(0, 1, 0.9), window(1, 2, 0.7), window(2, 3, 0.2), window(3, 4, 0.4)], CLASSES)
    assert facts(segments) == [(0, 2, "kick"), (2, 4, "push")]
    assert [segment.probability for segment in segments] == pytest.approx([0.8, 0.7])


def test_piece_takes_the_mean_of_the_windows_that_cover_it():
    segments = timeline([window(0, 2, 0.9), window(1, 3, 0.3), window(2, 4, 0.6)], CLASSES)
    # 0.9, (0.9 + 0.3) / 2, (0.3 + 0.6) / 2 and 0.6.
    assert facts(segments) == [(0, 2, "kick"), (2, 3, "push"), (3, 4, "kick")]
    assert [segment.probability for segment in segments] == pytest.approx([0.75, 0.55, 0.6])


def test_stride_above_the_window_leaves_gaps():
    segments = timeline([window(0, 1, 0.9), window(5, 6, 0.9)], CLASSES)
    assert facts(segments) == [(0, 1, "kick"), (5, 6, "kick")]
    assert segment_at(segments, 3) is None


def test_last_window_that_overlaps_is_merged():
    segments = timeline([window(0, 2, 0.9), window(2, 4, 0.9), window(2.5, 4.5, 0.9)], CLASSES)
    assert facts(segments) == [(0, 4.5, "kick")]


def test_borders_that_differ_by_rounding_make_no_piece():
    windows = [window(0.1 * number, 0.1 * number + 0.2, 0.9) for number in range(100)]
    (segment,) = timeline(windows, CLASSES)
    assert segment.probability == pytest.approx(0.9)
    assert segment.end_seconds == pytest.approx(10.1)


def test_pieces_below_the_threshold_are_unknown():
    calibration = Calibration(temperature=1.0, classes=CLASSES, unknown_below=0.65)
    segments = timeline([window(0, 1, 0.9), window(1, 2, 0.6), window(2, 3, 0.4)], CLASSES, calibration)
    assert facts(segments) == [(0, 1, "kick"), (1, 3, None)]
    assert segments[1].is_unknown
    assert segments[1].record() == {
        "start_seconds": 1.0,
        "end_seconds": 3.0,
        "class": None,
        "probability": pytest.approx(0.6),
    }


def test_temperature_changes_the_probabilities():
    calibration = Calibration(temperature=2.0, classes=CLASSES)
    (segment,) = timeline([window(0, 1, 0.9)], CLASSES, calibration)
    assert segment.probability == pytest.approx(3 / 4)


def test_segment_at_a_time_includes_its_start_only():
    segments = timeline([window(0, 1, 0.9), window(1, 2, 0.1)], CLASSES)
    names = [segment_at(segments, seconds).name for seconds in (0, 0.99, 1, 1.99, 2)]
    assert names == ["kick", "kick", "push", "push", "push"]
    assert segment_at(segments, -1) is None
    assert segment_at(segments, 2.1) is None
    assert segment_at([], 0) is None
