"""Protocols on manifests whose files do not exist, because no protocol opens a video."""

import collections
import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.data.manifest import protocols
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.data.manifest.protocols import EvalSet, already_trained, closed_set, few_shot

CLASSES = ("Pour", "Run", "brush_hair", "kick ball", "walk")


def manifest(labels=CLASSES, *, splits=("train", "test"), groups=10, each=2, root="/videos", leaks=False):
    """Return a manifest of `each` videos per class and group. The last third of the groups is test."""
    rows = [
        {
            "path": f"{label}/g{group}_{k}.mp4",
            "label": label,
            "group": f"{label} g{group}",
            "split": splits and splits[int(group >= groups * 2 / 3)],
        }
        for group in range(groups)
        for label in labels
        for k in range(each)
    ]
    return Manifest(pa.Table.from_pylist(rows), Path(root), "names.csv", allow_leaks=leaks)


def column(eval_set: EvalSet, name):
    values = eval_set.manifest.column(name)
    return [values[row] for row in eval_set.rows]


def test_zero_shot_evaluates_test_split_without_training():
    data = protocols.zero_shot(manifest())
    assert (data.train, data.val) == (None, None)
    assert set(column(data.eval_sets["test"], "split")) == {"test"}
    assert data.eval_sets["test"].classes == CLASSES


def test_zero_shot_without_splits_evaluates_all_videos():
    whole = manifest(splits=None)
    assert len(protocols.zero_shot(whole).eval_sets["test"].rows) == len(whole)


@pytest.mark.parametrize("protocol", [closed_set, functools.partial(few_shot, shots=2)])
def test_recorded_splits_reach_the_protocol(protocol):
    videos = manifest(splits=None)
    recorded = dict.fromkeys(videos.column("group"), "val") | {f"walk g{k}": "train" for k in range(10)}
    held_out = protocol(videos, recorded=recorded | {f"{name} g0": "train" for name in CLASSES})
    assert set(column(held_out.val, "label")) == {*CLASSES} - {"walk"}
    assert not len(held_out.eval_sets["test"].rows)
    assert not len(protocol(videos, hold_out_val=False).val.rows)
    legacy, drawn = (set(column(protocol(videos, legacy=old).val, "path")) for old in (True, False))
    assert legacy != drawn


@pytest.mark.parametrize("splits", [("train", "test"), None])
def test_validation_groups_come_from_train_only(splits):
    videos = manifest(splits=splits)
    data = closed_set(videos, seed=3)
    eval_sets = {"train": data.train, "val": data.val, "test": data.eval_sets["test"]}
    groups = {name: set(column(eval_set, "group")) for name, eval_set in eval_sets.items()}
    assert all(groups.values())
    assert not groups["train"] & groups["val"]
    assert not (groups["train"] | groups["val"]) & groups["test"]
    assert sum(len(eval_set.rows) for eval_set in eval_sets.values()) == len(videos)
    if splits:
        assert len(eval_sets["test"].rows) == len(videos.in_split("test"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shots_are_exact_seeded_and_nested(seed):
    chosen = {}
    for shots in (1, 2, 4, 8):
        data = few_shot(manifest(), shots=shots, seed=seed)
        counts = collections.Counter(column(data.train, "label"))
        assert counts == dict.fromkeys(CLASSES, shots)
        assert not set(column(data.train, "group")) & set(column(data.val, "group"))
        chosen[shots] = set(column(data.train, "path"))
    assert chosen[1] < chosen[2] < chosen[4] < chosen[8]
    assert chosen[4] != set(column(few_shot(manifest(), shots=4, seed=seed + 1).train, "path"))


def test_unnested_shots_are_drawn_independently_per_k():
    two, four = (few_shot(manifest(), shots=k, nested=False).train for k in (2, 4))
    assert not set(column(two, "path")) < set(column(four, "path"))
    assert collections.Counter(column(four, "label")) == dict.fromkeys(CLASSES, 4)


def test_class_with_too_few_videos_for_shots_is_reported():
    with pytest.raises(ValueError, match=r"16 shots need 16 videos of each class .*'Pour' has"):
        few_shot(manifest(), shots=16)


def test_base_classes_are_the_more_frequent_half():
    rows = [
        {"path": f"{label}{k}", "label": label, "split": split}
        for label, train, test in (("a", 1, 9), ("b", 5, 1), ("c", 3, 1), ("d", 5, 1), ("e", 2, 1))
        for split, count in (("train", train), ("test", test))
        for k in (f"{split}{n}" for n in range(count))
    ]
    videos = Manifest(pa.Table.from_pylist(rows), Path("/videos"), "names.csv")
    assert protocols.base_classes(videos) == ("b", "c", "d")


def test_base_and_novel_classes_and_videos_are_disjoint():
    base = ("walk", "Pour")
    videos = manifest()
    trained = few_shot(videos, shots=2, classes=base)
    assert trained.classes == base
    assert set(column(trained.train, "label")) == set(base)
    data = protocols.base_to_novel(trained, videos)
    assert data.train is trained.train
    assert data.eval_sets["base"].classes == base
    assert data.eval_sets["novel"].classes == ("Run", "brush_hair", "kick ball")
    for eval_set in data.eval_sets.values():
        assert set(column(eval_set, "label")) == set(eval_set.classes)
        assert set(column(eval_set, "split")) == {"test"}


def test_split_of_a_video_is_independent_of_chosen_classes():
    videos = manifest(splits=None)
    some, whole = closed_set(videos, classes=("walk", "Run")), closed_set(videos)
    for part, everything in ((some.train, whole.train), (some.val, whole.val)):
        assert set(column(part, "path")) < set(column(everything, "path"))


def test_base_to_novel_needs_a_novel_class():
    videos = manifest()
    with pytest.raises(ValueError, match="no novel classes"):
        protocols.base_to_novel(closed_set(videos), videos)


def test_cross_dataset_uses_class_names_of_other_set():
    other = manifest(("dive", "Walk"), root="/other")
    data = protocols.cross_dataset(closed_set(manifest()), other)
    assert data.classes == CLASSES
    assert data.eval_sets["test"].classes == ("Walk", "dive")
    assert set(column(data.eval_sets["test"], "split")) == {"test"}


def test_cross_domain_uses_trained_names_of_shared_classes():
    dark = manifest(("KickBall", "Walk", "pour", "Wave"), root="/dark")
    data = protocols.cross_domain(closed_set(manifest()), dark)
    eval_set = data.eval_sets["test"]
    assert eval_set.classes == ("Pour", "kick ball", "walk")
    pairs = {
        (path.split("/")[0], label)
        for path, label in zip(column(eval_set, "path"), column(eval_set, "label"), strict=True)
    }
    assert pairs == {("KickBall", "kick ball"), ("Walk", "walk"), ("pour", "Pour")}


def test_cross_domain_needs_two_shared_classes():
    with pytest.raises(ValueError, match="shares 1 of the 5 trained classes"):
        protocols.cross_domain(already_trained(CLASSES), manifest(("Walk", "dive")))


def test_evaluating_training_videos_is_refused_unless_allowed():
    trained = closed_set(manifest())
    count = len(trained.train.rows) + len(trained.val.rows)
    with pytest.raises(ManifestError, match=f"{count} videos of the evaluation were trained or selected on"):
        protocols.cross_dataset(trained, manifest(splits=None))
    leaky = protocols.cross_dataset(trained, manifest(splits=None, leaks=True))
    assert len(leaky.eval_sets["test"].rows) == 100


def test_empty_single_or_similarly_spelled_classes_are_refused():
    with pytest.raises(ValueError, match="no video of 1 of 2 classes: swim"):
        closed_set(manifest(), classes=("walk", "swim"))
    with pytest.raises(ValueError, match="differ in case or signs only"):
        closed_set(manifest(("walk", "Walk", "run")), classes=("walk", "run"))
    with pytest.raises(ValueError, match="at least two labels"):
        closed_set(manifest(), classes=("walk",))


def test_split_without_videos_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the 'val' split .*splits found: train, test"):
        protocols.zero_shot(manifest(), split="val")


def test_protocols_are_deterministic():
    videos, other = manifest(), manifest(("walk", "pour"), root="/other")
    for name, protocol in protocols.TRANSFERS.items():
        trained = [few_shot(videos, shots=2, classes=("walk", "Pour"), seed=5) for _ in range(2)]
        first, second = (protocol(one, other if "cross" in name else videos) for one in trained)
        assert first.name == name
        assert (first.train.rows == second.train.rows).all()
        for eval_set in first.eval_sets:
            assert np.array_equal(first.eval_sets[eval_set].rows, second.eval_sets[eval_set].rows)
