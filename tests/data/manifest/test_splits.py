import collections

import numpy as np
import pytest

from evclip_ray.data.manifest.splits import assign_splits, few_shot


def counted(manifest):
    return collections.Counter(zip(manifest.column("split"), manifest.column("label"), strict=True))


@pytest.fixture
def grouped(make_manifest):
    """Return 20 groups without splits, each with 3 videos of each of 4 classes."""
    rows = [(f"{g}/{c}/{k}.mp4", f"c{c}", f"g{g}") for g in range(20) for c in range(4) for k in range(3)]
    paths, labels, groups = zip(*rows, strict=True)
    return make_manifest(path=paths, label=labels, group=groups)


def test_groups_stay_whole_and_fractions_are_met(grouped):
    manifest = assign_splits(grouped, seed=1)
    by_group = collections.defaultdict(set)
    for row in manifest.rows():
        by_group[row["group"]].add(row["split"])
    assert all(len(splits) == 1 for splits in by_group.values())
    assert set(counted(manifest).values()) == {12 * 3, 4 * 3}
    assert manifest.splits() == ("train", "val", "test")


def test_class_shares_are_kept_without_groups(make_manifest):
    labels = ["often"] * 50 + ["seldom"] * 10 + ["rare"] * 3
    manifest = assign_splits(make_manifest(path=[f"{k}.mp4" for k in range(63)], label=labels))
    counts = counted(manifest)
    assert [counts[split, "often"] for split in ("train", "val", "test")] == [30, 10, 10]
    assert [counts[split, "seldom"] for split in ("train", "val", "test")] == [6, 2, 2]
    assert [counts[split, "rare"] for split in ("train", "val", "test")] == [1, 1, 1]


def test_seed_determines_splits_for_any_row_order(grouped):
    first = assign_splits(grouped, seed=4)
    shuffled = assign_splits(grouped.select(np.random.default_rng(0).permutation(len(grouped))), seed=4)
    split_of = dict(zip(shuffled.column("path"), shuffled.column("split"), strict=True))
    assert [split_of[path] for path in first.column("path")] == first.column("split")
    assert assign_splits(grouped, seed=5).column("split") != first.column("split")


def test_validation_groups_come_from_train_only(grouped):
    groups = grouped.column("group")
    splits = ["test" if group in ("g0", "g1", "g2") else "train" for group in groups]
    position = grouped.table.column_names.index("split")
    table = grouped.table.set_column(position, "split", [splits])
    manifest = assign_splits(type(grouped)(table, grouped.root, "official"), val_fraction=0.25)
    test_splits = [
        split for split, before in zip(manifest.column("split"), splits, strict=True) if before == "test"
    ]
    assert set(test_splits) == {"test"}
    held_out = {g for g, split in zip(groups, manifest.column("split"), strict=True) if split == "val"}
    assert len(held_out) == 4


def test_complete_splits_are_unchanged(make_manifest):
    manifest = make_manifest(path=["a", "b", "c"], label=["x"] * 3, split=["train", "val", "test"])
    assert assign_splits(manifest) is manifest


def test_partly_assigned_splits_are_refused(make_manifest):
    manifest = make_manifest(path=["a", "b"], label=["x", "x"], split=["train", None])
    with pytest.raises(ValueError, match="1 of 2 rows have no split; fill all or none"):
        assign_splits(manifest)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (-0.1, 0.2), (1.0, 0.0)])
def test_fractions_without_training_videos_are_refused(make_manifest, fractions):
    manifest = make_manifest(path=["a"], label=["x"])
    with pytest.raises(ValueError, match="sum to less than 1"):
        assign_splits(manifest, val_fraction=fractions[0], test_fraction=fractions[1])


def test_shots_are_exact_nested_and_inside_the_split(grouped):
    manifest = assign_splits(grouped)
    chosen = {k: few_shot(manifest, shots=k, seed=3) for k in (1, 2, 4, 8)}
    for k, rows in chosen.items():
        assert set(collections.Counter(np.array(manifest.column("label"))[rows]).values()) == {k}
        assert set(rows) <= set(manifest.in_split("train"))
        assert (np.diff(rows) > 0).all()
    assert set(chosen[1]) <= set(chosen[2]) <= set(chosen[4]) <= set(chosen[8])
    assert set(few_shot(manifest, shots=4, seed=4)) != set(chosen[4])


def test_shots_of_a_class_do_not_depend_on_the_other_classes(grouped):
    manifest = assign_splits(grouped)
    some = [row for row, label in enumerate(manifest.column("label")) if label in ("c1", "c3")]
    alone = manifest.select(some[::-1])
    paths = [alone.column("path")[row] for row in few_shot(alone, shots=2, seed=0)]
    all_paths = [manifest.column("path")[row] for row in few_shot(manifest, shots=2, seed=0)]
    assert set(paths) == {path for path in all_paths if "/1/" in path or "/3/" in path}


def test_class_with_too_few_videos_for_shots_is_reported(make_manifest):
    manifest = make_manifest(
        path=["a", "b", "c"], label=["often", "often", "rare"], split=["train", "train", "train"]
    )
    with pytest.raises(ValueError, match=r"1 of 2 classes have fewer: 'rare' has 1; take fewer shots"):
        few_shot(manifest, shots=2, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        few_shot(manifest, shots=0, seed=0)
