import numpy as np
import pytest

from evclip_ray.domain_shift.feature_distance import feature_distances, frechet_distance, principal_plane


def names(count, prefix="v"):
    return [f"{prefix}{number:03d}" for number in range(count)]


def distances(a, b, units_a=None, units_b=None):
    results = feature_distances(
        a, b, units_a=units_a or names(len(a), "a"), units_b=units_b or names(len(b), "b"), seed=0
    )
    return {distance.name: distance for distance in results}


def test_frechet_of_gaussians_equals_the_closed_form():
    """Samples are whitened exactly and then given a mean and a covariance."""
    random = np.random.default_rng(0)
    means, roots, samples = random.normal(size=(2, 5)), random.normal(size=(2, 5, 5)), []
    for mean, root in zip(means, roots, strict=True):
        raw = random.normal(size=(60, 5))
        raw -= raw.mean(0)
        white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / 59)).T
        samples.append(white @ root.T + mean)
    covariances = [root @ root.T for root in roots]
    both = np.linalg.eigvals(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * np.sqrt(both).sum()
    assert frechet_distance(*samples) == pytest.approx(expected)


def test_frechet_of_isotropic_gaussians_of_unequal_width():
    """The distance is |m|^2 + D (s - t)^2 with D dimensions and widths s and t."""
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (4000, 3)), random.normal((3, 0, 0), 2, (4000, 3))
    assert frechet_distance(a, b) == pytest.approx(9 + 3 * 1, rel=0.05)


def test_frechet_is_exact_with_fewer_videos_than_dimensions():
    a, b = np.random.default_rng(0).normal(size=(2, 7, 50))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    padded = [np.pad(x, ((0, 0), (0, 9))) for x in (a, b)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b))


def test_identical_sets_are_not_further_than_chance():
    a = np.random.default_rng(0).normal(size=(40, 16))
    by_name = distances(a, a, names(40), names(40))
    assert by_name["frechet"].value == pytest.approx(0, abs=1e-9)
    assert by_name["mmd2_linear"].value == pytest.approx(0, abs=1e-9)
    assert by_name["mmd2_linear"].p == 1
    assert by_name["classifier_error"].value == pytest.approx(0.5)
    assert by_name["classifier_error"].p > 0.1


def test_halves_of_one_set_are_as_far_apart_as_chance():
    a, b = np.random.default_rng(3).normal(size=(2, 60, 16))
    by_name = distances(a, b)
    assert by_name["frechet"].value == pytest.approx(by_name["frechet"].chance, rel=0.25)
    assert by_name["mmd2_linear"].p > 0.05
    assert by_name["classifier_error"].p > 0.05
    assert by_name["classifier_error"].chance == pytest.approx(0.5, abs=0.02)


def test_different_sets_are_further_than_chance():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(50, 16)), random.normal(size=(90, 16)) + 1.5
    by_name = distances(a, b)
    assert by_name["frechet"].value > 5 * by_name["frechet"].chance
    assert by_name["mmd2_linear"].value == pytest.approx(16 * 1.5**2, rel=0.2)
    assert by_name["mmd2_linear"].p == by_name["classifier_error"].p == pytest.approx(0.001)
    assert by_name["classifier_error"].value < 0.05


def test_p_values_are_uniform_under_the_null():
    random = np.random.default_rng(0)
    ps = [distances(*random.normal(size=(2, 12, 4)))["mmd2_linear"].p for _ in range(40)]
    assert sum(p <= 0.2 for p in ps) == pytest.approx(8, abs=6)


def test_videos_of_one_source_are_permuted_together():
    """Six sources of ten videos per set: any split of the sources is far apart, so p is not small."""
    random = np.random.default_rng(0)
    values = np.repeat(random.normal(size=(12, 8)), 10, axis=0) + random.normal(0, 0.01, (120, 8))
    units = [f"g{number // 10}" for number in range(60)]
    others = [f"h{number // 10}" for number in range(60)]
    assert distances(values[:60], values[60:])["mmd2_linear"].p == pytest.approx(0.001)
    assert distances(values[:60], values[60:], units, others)["mmd2_linear"].p > 0.02


def test_order_of_videos_changes_no_value():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 30, 8))
    units, order = np.array(names(30)), random.permutation(30)
    straight = distances(a, b, list(units), names(30, "b"))
    shuffled = distances(a[order], b, list(units[order]), names(30, "b"))
    for name, distance in straight.items():
        assert shuffled[name].value == pytest.approx(distance.value)
        assert shuffled[name].chance == pytest.approx(distance.chance)
        assert shuffled[name].p == distance.p


def test_single_video_has_no_distance():
    with pytest.raises(ValueError, match="at least 2 videos in each set, got 1 and 5"):
        distances(np.zeros((1, 3)), np.zeros((5, 3)))


def test_principal_plane_contains_the_direction_of_the_shift():
    random = np.random.default_rng(0)
    a, b = random.normal(0, 0.1, (2, 20, 6))
    b[:, 4] += 5
    planes = principal_plane([a, b])
    assert [plane.shape for plane in planes] == [(20, 2), (20, 2)]
    assert planes[1][:, 0].min() - planes[0][:, 0].max() > 4
