"""Protocols on manifests of names alone: no video is opened."""

import collections
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.data.manifest import protocols
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.data.manifest.protocols import EvalSet, already_trained, closed_set, few_shot

CLASSES = ("Pour", "Run", "brush_hair", "kick ball", "walk")


def manifest(labels=CLASSES, *, splits=("train", "test"), groups=10, each=2, root="/videos", leaks=False):
    """`each` videos of each class in each of `groups` groups; the last third of the groups are test."""
    rows = [
        {"path": f"{label}/g{group}_{k}.mp4", "label": label, "group": f"{label} g{group}",
         "split": splits and splits[int(group >= groups * 2 / 3)]}
        for group in range(groups) for label in labels for k in range(each)
    ]  # fmt: skip
    return Manifest(pa.Table.from_pylist(rows), Path(root), "names.csv", allow_leaks=leaks)


def column(side: EvalSet, name):
    values = side.manifest.column(name)
    return [values[row] for row in side.rows]


def test_zero_shot_trains_nothing_and_reads_the_test_split():
    found = protocols.zero_shot(manifest())
    assert (found.train, found.val) == (None, None)
    assert set(column(found.eval_sets["test"], "split")) == {"test"}
    assert found.eval_sets["test"].classes == CLASSES


def test_a_set_without_splits_is_read_whole_as_nothing_of_it_was_trained_on():
    whole = manifest(splits=None)
    assert len(protocols.zero_shot(whole).eval_sets["test"].rows) == len(whole)


@pytest.mark.parametrize("splits", [("train", "test"), None])
def test_validation_is_held_out_of_train_by_group_and_never_from_test(splits):
    given = manifest(splits=splits)
    found = closed_set(given, seed=3)
    sides = {"train": found.train, "val": found.val, "test": found.eval_sets["test"]}
    groups = {name: set(column(side, "group")) for name, side in sides.items()}
    assert all(groups.values())
    assert not groups["train"] & groups["val"]
    assert not (groups["train"] | groups["val"]) & groups["test"]
    assert sum(len(side.rows) for side in sides.values()) == len(given)
    if splits:
        assert len(sides["test"].rows) == len(given.in_split("test"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shots_are_exact_seeded_and_nested(seed):
    chosen = {}
    for shots in (1, 2, 4, 8):
        found = few_shot(manifest(), shots=shots, seed=seed)
        counts = collections.Counter(column(found.train, "label"))
        assert counts == dict.fromkeys(CLASSES, shots)
        assert not set(column(found.train, "group")) & set(column(found.val, "group"))
        chosen[shots] = set(column(found.train, "path"))
    assert chosen[1] < chosen[2] < chosen[4] < chosen[8]
    assert chosen[4] != set(column(few_shot(manifest(), shots=4, seed=seed + 1).train, "path"))


def test_shots_that_are_not_nested_are_drawn_anew_for_each_k():
    two, four = (few_shot(manifest(), shots=k, nested=False).train for k in (2, 4))
    assert not set(column(two, "path")) < set(column(four, "path"))
    assert collections.Counter(column(four, "label")) == dict.fromkeys(CLASSES, 4)


def test_sixteen_shots_of_too_few_videos_are_refused_with_the_class():
    with pytest.raises(ValueError, match=r"16 shots need 16 videos of each class .*'Pour' has"):
        few_shot(manifest(), shots=16)


def test_base_classes_are_the_frequent_half_and_the_larger():
    rows = [{"path": f"{label}{k}", "label": label, "split": split}
            for label, train, test in (("a", 1, 9), ("b", 5, 1), ("c", 3, 1), ("d", 5, 1), ("e", 2, 1))
            for split, count in (("train", train), ("test", test))
            for k in (f"{split}{n}" for n in range(count))]  # fmt: skip
    given = Manifest(pa.Table.from_pylist(rows), Path("/videos"), "names.csv")
    assert protocols.base_classes(given) == ("b", "c", "d")


def test_base_and_novel_share_neither_classes_nor_videos_and_order_their_own_labels():
    base = ("walk", "Pour")
    given = manifest()
    trained = few_shot(given, shots=2, classes=base)
    assert trained.classes == base
    assert set(column(trained.train, "label")) == set(base)
    found = protocols.base_to_novel(trained, given)
    assert found.train is trained.train
    assert found.eval_sets["base"].classes == base
    assert found.eval_sets["novel"].classes == ("Run", "brush_hair", "kick ball")
    for side in found.eval_sets.values():
        assert set(column(side, "label")) == set(side.classes)
        assert set(column(side, "split")) == {"test"}


def test_the_split_of_a_video_does_not_depend_on_which_classes_are_told_apart():
    given = manifest(splits=None)
    some, whole = closed_set(given, classes=("walk", "Run")), closed_set(given)
    for part, everything in ((some.train, whole.train), (some.val, whole.val)):
        assert set(column(part, "path")) < set(column(everything, "path"))


def test_base_to_novel_needs_a_novel_class():
    given = manifest()
    with pytest.raises(ValueError, match="none is novel"):
        protocols.base_to_novel(closed_set(given), given)


def test_cross_dataset_reads_the_other_set_among_its_own_names():
    other = manifest(("dive", "Walk"), root="/other")
    found = protocols.cross_dataset(closed_set(manifest()), other)
    assert found.classes == CLASSES
    assert found.eval_sets["test"].classes == ("Walk", "dive")
    assert set(column(found.eval_sets["test"], "split")) == {"test"}


def test_cross_domain_reads_the_shared_classes_as_they_were_trained():
    dark = manifest(("KickBall", "Walk", "pour", "Wave"), root="/dark")
    found = protocols.cross_domain(closed_set(manifest()), dark)
    side = found.eval_sets["test"]
    assert side.classes == ("Pour", "kick ball", "walk")
    pairs = {(path.split("/")[0], label) for path, label in
             zip(column(side, "path"), column(side, "label"), strict=True)}  # fmt: skip
    assert pairs == {("KickBall", "kick ball"), ("Walk", "walk"), ("pour", "Pour")}


def test_cross_domain_needs_two_shared_classes():
    with pytest.raises(ValueError, match="shares 1 of the 5 trained classes"):
        protocols.cross_domain(already_trained(CLASSES), manifest(("Walk", "dive")))


def test_reading_what_was_trained_is_refused_with_the_count_and_allowed_when_asked():
    trained = closed_set(manifest())
    count = len(trained.train.rows) + len(trained.val.rows)
    with pytest.raises(ManifestError, match=f"{count} videos of the evaluation were trained or selected on"):
        protocols.cross_dataset(trained, manifest(splits=None))
    leaky = protocols.cross_dataset(trained, manifest(splits=None, leaks=True))
    assert len(leaky.eval_sets["test"].rows) == 100


def test_a_class_without_a_video_and_classes_that_are_spelled_alike_are_refused():
    with pytest.raises(ValueError, match="no video of 1 of 2 classes: swim"):
        closed_set(manifest(), classes=("walk", "swim"))
    with pytest.raises(ValueError, match="differ in case or signs only"):
        closed_set(manifest(("walk", "Walk", "run")), classes=("walk", "run"))
    with pytest.raises(ValueError, match="at least two labels"):
        closed_set(manifest(), classes=("walk",))


def test_a_split_without_a_video_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the 'val' split .*splits found: train, test"):
        protocols.zero_shot(manifest(), split="val")


def test_every_protocol_is_the_same_twice():
    given, other = manifest(), manifest(("walk", "pour"), root="/other")
    for name, protocol in protocols.TRANSFERS.items():
        trained = [few_shot(given, shots=2, classes=("walk", "Pour"), seed=5) for _ in range(2)]
        first, second = (protocol(one, other if "cross" in name else given) for one in trained)
        assert first.name == name
        assert (first.train.rows == second.train.rows).all()
        for side in first.eval_sets:
            assert np.array_equal(first.eval_sets[side].rows, second.eval_sets[side].rows)
