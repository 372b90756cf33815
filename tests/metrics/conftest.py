import numpy as np
import pytest

from evclip_ray.metrics.calibration import softmax


@pytest.fixture(scope="session")
def drawn():
    """Return a function that draws labels from true probabilities, and returns their scaled logits."""

    def draw(count, scale=1.0, num_classes=5):
        rng = np.random.default_rng(0)
        logits = 2 * rng.normal(size=(count, num_classes))
        sums = softmax(logits).cumsum(axis=1)
        labels = (sums < rng.random((count, 1))).sum(axis=1).clip(0, num_classes - 1)
        return scale * logits, labels

    return draw
