import collections
import random

import numpy as np
import pytest

from evclip_ray.data.manifest.splits import assign_splits, few_shot, summarize_splits

SHARES = {"train": 0.6, "test": 0.2, "val": 0.2}


def counted(manifest):
    return collections.Counter(zip(manifest.column("split"), manifest.column("label"), strict=True))


def split_of_groups(manifest):
    groups = collections.defaultdict(set)
    for row in manifest.rows():
        groups[row["group"] or row["path"]].add(row["split"])
    assert all(len(splits) == 1 for splits in groups.values())
    return {name: splits.pop() for name, splits in groups.items()}


def rows_of(group_sizes):
    """Return the columns of a manifest: (group, label) -> number of videos."""
    rows = [
        (f"{group}/{label}/{k}", label, group)
        for (group, label), size in group_sizes.items()
        for k in range(size)
    ]
    return dict(zip(("path", "label", "group"), map(list, zip(*rows, strict=True)), strict=True))


def random_sizes(draw, prefix="", shared=False):
    """Draw 1 to 4 classes of 1 to 20 groups of 1 to 7 videos, with classes that share groups or do not."""
    sizes = {}
    for label in "abcd"[: draw.randint(1, 4)]:
        for group in range(draw.randint(1, 20)):
            name = f"{prefix}g{group}" if shared else f"{prefix}{label}{group}"
            sizes[name, label] = draw.randint(1, 7)
    return sizes


@pytest.fixture
def grouped(make_manifest):
    """Return 20 groups without splits, each with 3 videos of each of 4 classes."""
    rows = [(f"{g}/{c}/{k}.mp4", f"c{c}", f"g{g}") for g in range(20) for c in range(4) for k in range(3)]
    paths, labels, groups = zip(*rows, strict=True)
    return make_manifest(path=paths, label=labels, group=groups)


def test_groups_stay_whole_and_fractions_are_met(grouped):
    manifest = assign_splits(grouped, seed=1)
    assert collections.Counter(split_of_groups(manifest).values()) == {"train": 12, "test": 4, "val": 4}
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
    with pytest.raises(ValueError, match="1 of 2 rows has no split; fill all or none"):
        assign_splits(manifest)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_added_videos_never_move_recorded_ones(make_manifest, seed, shared):
    draw = random.Random(seed)
    sizes = random_sizes(draw, shared=shared)
    recorded = split_of_groups(assign_splits(make_manifest(**rows_of(sizes)), seed=seed))
    # Old groups grow too, and some get videos of another class.
    grown = sizes | random_sizes(draw, prefix="new ", shared=shared)
    grown |= {(group, draw.choice("abcde")): 2 for group, _ in sizes if draw.random() < 0.3}
    # Groups that are gone are ignored.
    known = recorded | {"gone": "test"}
    extended = split_of_groups(assign_splits(make_manifest(**rows_of(grown)), seed=seed, recorded=known))
    assert {group: extended[group] for group in recorded} == recorded
    assert len(extended) > len(recorded)


@pytest.mark.parametrize("seed", range(8))
def test_shares_of_a_class_are_within_one_group(make_manifest, seed):
    sizes = random_sizes(random.Random(seed))
    manifest = assign_splits(make_manifest(**rows_of(sizes)), seed=seed)
    split_of_groups(manifest)
    counts = counted(manifest)
    for label in manifest.classes:
        of_class = [size for (_, name), size in sizes.items() if name == label]
        if len(of_class) >= 5:
            for split, share in SHARES.items():
                assert abs(counts[split, label] - share * sum(of_class)) <= max(of_class)


def test_growth_one_by_one_keeps_shares(make_manifest):
    draw, sizes, recorded = random.Random(0), {}, {}
    for number in range(30):
        sizes[f"g{draw.random()}", "a"] = draw.randint(1, 5)
        manifest = assign_splits(make_manifest(**rows_of(sizes)), recorded=recorded)
        recorded = split_of_groups(manifest)
        if number < 3:
            assert list(recorded.values()) == ["train", "test", "val"][: number + 1]
        elif number > 3:
            counts = counted(manifest)
            errors = [counts[split, "a"] - share * len(manifest) for split, share in SHARES.items()]
            assert max(map(abs, errors)) <= 5


def test_new_groups_go_to_the_split_that_lacks_them(make_manifest):
    sizes = {(f"{k}", "a"): 1 for k in range(10)}
    recorded = {f"{k}": "train" for k in range(6)}
    extended = split_of_groups(assign_splits(make_manifest(**rows_of(sizes)), recorded=recorded))
    assert sorted(split for name, split in extended.items() if name not in recorded) == [
        *["test"] * 2,
        *["val"] * 2,
    ]


def test_small_classes_get_a_group_per_split_or_a_warning(make_manifest, caplog):
    sizes = {(f"{label}{k}", label): 9 - k for label in "abc" for k in range("abc".index(label) + 1)}
    manifest = assign_splits(make_manifest(**rows_of(sizes)))
    splits = {label: {split for split, name in counted(manifest) if name == label} for label in "abc"}
    assert splits == {"a": {"train"}, "b": {"train", "test"}, "c": {"train", "test", "val"}}
    test, val = [record.getMessage() for record in caplog.records]
    assert test.endswith("test has no video of 1 of 3 classes, because of too few groups: a")
    assert val.endswith("val has no video of 2 of 3 classes, because of too few groups: a, b")


def test_large_group_goes_to_train(make_manifest):
    sizes = {("long", "a"): 10} | {(f"{k}", "a"): 1 for k in range(5)}
    for seed in range(5):
        assert split_of_groups(assign_splits(make_manifest(**rows_of(sizes)), seed=seed))["long"] == "train"


def test_split_of_a_class_ignores_the_other_classes(make_manifest):
    sizes = random_sizes(random.Random(1)) | {(f"d{k}", "d"): 2 for k in range(9)}
    together = split_of_groups(assign_splits(make_manifest(**rows_of(sizes))))
    alone = {key: size for key, size in sizes.items() if key[1] == "d"}
    assert split_of_groups(assign_splits(make_manifest(**rows_of(alone)))).items() <= together.items()


def test_groups_of_several_classes_meet_shares(make_manifest):
    draw = random.Random(0)
    # Frequent classes are in every group, and rare ones in a few.
    sizes = {
        (f"p{group}", f"c{label}"): draw.randint(1, 40 // (label + 1))
        for group in range(20)
        for label in range(20)
        if draw.random() < 2 / (label + 1)
    }
    manifest = assign_splits(make_manifest(**rows_of(sizes)))
    split_of_groups(manifest)
    for split, share in SHARES.items():
        assert len(manifest.in_split(split)) / len(manifest) == pytest.approx(share, abs=0.06)


def test_test_split_does_not_depend_on_validation(make_manifest):
    manifest = make_manifest(**rows_of(random_sizes(random.Random(2))))
    draws = [
        split_of_groups(assign_splits(manifest, **options))
        for options in ({}, {"val_fraction": 0.4}, {"hold_out_val": False})
    ]
    tests = [{name for name, split in draw.items() if split == "test"} for draw in draws]
    assert tests[0]
    assert tests[0] == tests[1] == tests[2]
    assert set(draws[2].values()) == {"train", "test"}


@pytest.mark.parametrize("legacy", [False, True])
def test_train_test_list_stays_if_no_validation_is_held_out(make_manifest, legacy):
    manifest = make_manifest(path=["a", "b"], label=["x", "x"], split=["train", "test"])
    assert assign_splits(manifest, hold_out_val=False, legacy=legacy) is manifest


def test_recorded_validation_is_extended_within_train(make_manifest):
    columns = rows_of({(f"{k}", "a"): 1 for k in range(12)})
    columns["split"] = ["test" if k < 2 else "train" for k in range(12)]
    # "0" was recorded before the list had a test split.
    recorded = {"0": "train", "2": "val", "3": "test"}
    splits = split_of_groups(assign_splits(make_manifest(**columns), recorded=recorded))
    assert collections.Counter(splits.values()) == {"train": 8, "val": 2, "test": 2}
    assert (splits["0"], splits["2"]) == ("test", "val")


def test_draws_are_the_same_in_every_version(make_manifest):
    names = [f"{label}{group}" for label in "ab" for group in range(10)]
    manifest = make_manifest(**rows_of({(name, name[0]): 1 + k % 3 for k, name in enumerate(names)}))
    expected = {
        # Drawn by version 0.1.
        (True, 0): {"val": "a0 a5 b4 b8", "test": "a3 a8 b2 b7"},
        (True, 1): {"val": "a8 a9 b2 b4", "test": "a0 a5 b7 b8"},
        (False, 0): {"val": "a0 a8 b1 b3", "test": "a1 a3 a9 b2 b5 b9"},
        (False, 1): {"val": "a1 a7 b0 b2 b8", "test": "a3 a4 a9 b5 b7"},
    }
    for (legacy, seed), drawn in expected.items():
        splits = split_of_groups(assign_splits(manifest, seed=seed, legacy=legacy))
        for split, groups in drawn.items():
            assert " ".join(name for name in names if splits[name] == split) == groups


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recorded": {"a": "dev"}}, "must be train, val, test, got 'dev'"),
        ({"recorded": {"a": "val"}, "legacy": True}, "cannot be extended by the draw of version 0.1"),
    ],
)
def test_unusable_recorded_splits_are_refused(make_manifest, options, message):
    with pytest.raises(ValueError, match=message):
        assign_splits(make_manifest(path=["a"], label=["x"]), **options)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (-0.1, 0.2), (1.0, 0.0)])
def test_fractions_without_training_videos_are_refused(make_manifest, fractions):
    manifest = make_manifest(path=["a"], label=["x"])
    with pytest.raises(ValueError, match="sum to less than 1"):
        assign_splits(manifest, val_fraction=fractions[0], test_fraction=fractions[1])


def test_summary_counts_groups_and_class_shares(make_manifest):
    columns = rows_of({("g1", "a"): 3, ("g2", "a"): 1, ("g2", "b"): 2, ("g3", "b"): 2})
    columns["split"] = ["train"] * 3 + ["test"] * 3 + ["train"] * 2
    columns["group"][-2:] = [None, None]
    train, test = summarize_splits(make_manifest(**columns))
    assert (train.split, train.videos, train.groups, train.classes) == ("train", 5, 3, {"a": 3, "b": 2})
    assert (train.share, train.lowest, train.highest) == (5 / 8, 0.5, 0.75)
    assert (test.split, test.videos, test.groups, test.lowest) == ("test", 3, 1, 0.25)
    [undrawn] = summarize_splits(make_manifest(path=["a"], label=["x"]))
    assert (undrawn.split, undrawn.videos) == ("none", 1)


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
