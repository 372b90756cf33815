"""Risk-coverage curve and the choice of a threshold."""

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.metrics.rejection import RiskCoverage, choose_threshold

CONFIDENCE = np.array([0.9, 0.5, 0.8, 0.6, 0.7])
RIGHT = np.array([True, False, True, True, False])


def test_curve_goes_from_the_most_confident_video_to_all():
    curve = RiskCoverage.of(CONFIDENCE, RIGHT)
    assert curve.threshold.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert curve.coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert curve.risk.tolist() == [0, 0, 1 / 3, 1 / 4, 2 / 5]
    assert curve.area == pytest.approx(np.mean([0, 0, 1 / 3, 1 / 4, 2 / 5]))
    assert curve.rows()[2] == [0.7, 3, 0.6, pytest.approx(1 / 3)]


def test_equal_confidences_are_accepted_together():
    curve = RiskCoverage.of(np.array([0.6, 0.6, 0.6, 0.6]), np.array([True, True, False, True]))
    assert curve.accepted.tolist() == [4]
    # The order within a tie is not known, so its errors are spread evenly.
    assert curve.area == pytest.approx(0.25)


def test_threshold_accepts_the_most_videos_within_the_risk():
    curve = RiskCoverage.of(CONFIDENCE, RIGHT)
    # Risk 1/4 at 0.6 although it is 1/3 at 0.7 before.
    assert choose_threshold(curve, 0.3) == pytest.approx(0.55)
    assert choose_threshold(curve, 0.1) == pytest.approx(0.75)
    assert choose_threshold(curve, 0.4) == 0


def test_unreachable_risk_names_the_lowest():
    curve = RiskCoverage.of(CONFIDENCE, ~RIGHT)
    with pytest.raises(ArtifactError, match=r"risk of 0\.2: the lowest .* 5 validation videos is 0\.600"):
        choose_threshold(curve, 0.2)
