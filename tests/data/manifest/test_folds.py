import collections

import numpy as np
import pytest

from evclip_ray.data.manifest.folds import assign_folds, count_folds


def videos(classes, per_class):
    labels = [f"c{number}" for number in range(classes) for _ in range(per_class)]
    return labels, [f"video {number}" for number in range(len(labels))]


@pytest.mark.parametrize(("shots", "folds"), [(2, 2), (3, 3), (4, 4), (8, 4), (16, 4)])
def test_folds_are_four_or_the_shots(shots, folds):
    assert count_folds(*videos(5, shots), source="x") == folds


def test_folds_are_stratified_and_of_equal_size():
    labels, groups = videos(7, 6)
    fold = assign_folds(labels, groups, folds=4, seed=0)
    per_class = collections.Counter(zip(labels, fold.tolist(), strict=True))
    assert set(per_class.values()) == {1, 2}
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1


def test_folds_keep_groups_together():
    labels = ["a"] * 6 + ["b"] * 6
    groups = [f"{label}{number // 2}" for number, label in enumerate(labels)]
    fold = assign_folds(labels, groups, folds=3, seed=0)
    assert all(len(set(fold[np.array(groups) == group])) == 1 for group in groups)
    assert sorted(np.bincount(fold)) == [4, 4, 4]


def test_folds_do_not_depend_on_row_order():
    labels, groups = videos(4, 5)
    order = np.random.default_rng(0).permutation(len(labels))
    fold = assign_folds(labels, groups, folds=4, seed=1)
    shuffled = assign_folds([labels[k] for k in order], [groups[k] for k in order], folds=4, seed=1)
    assert shuffled.tolist() == fold[order].tolist()
    assert assign_folds(labels, groups, folds=4, seed=2).tolist() != fold.tolist()


def test_single_shot_is_refused_with_the_fix():
    with pytest.raises(
        ValueError, match=r"5 of 5 classes have fewer: 'c0'.* Mark some other videos as 'val'"
    ):
        count_folds(*videos(5, 1), source="list.csv")


def test_more_folds_than_videos_are_refused():
    with pytest.raises(ValueError, match=r"lower data\.folds to 3"):
        count_folds(*videos(5, 3), 4, source="list.csv")
