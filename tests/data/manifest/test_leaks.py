import logging

import pyarrow as pa
import pytest

from evclip_ray.data.manifest.leaks import (
    find_leaks,
    refuse_leaks,
)
from evclip_ray.data.manifest.manifest import SCHEMA, Manifest, ManifestError, read_manifest, write_manifest
from evclip_ray.data.manifest.splits import assign_splits, few_shot


@pytest.fixture
def leaky(tmp_path):
    """Return a function that writes files and returns a manifest of rows (name, split, group)."""

    def make(rows, **files):
        for name, data in files.items():
            (tmp_path / f"{name}.mp4").write_bytes(data)
        named = [
            {"path": f"{path}.mp4", "label": "x", "split": split, "group": group}
            for path, split, group in rows
        ]
        table = pa.Table.from_pylist(named, SCHEMA)
        return Manifest(table, tmp_path, "protocol.csv", allow_leaks=True)

    return make


def summary(leaks):
    return [(leak.kind, leak.value, leak.splits, leak.rows) for leak in leaks]


def test_disjoint_splits_have_no_leaks(leaky):
    manifest = leaky(
        [("a", "train", "g1"), ("b", "train", "g1"), ("c", "test", None)], a=b"1", b=b"1", c=b"2"
    )
    assert find_leaks(manifest) == []
    assert refuse_leaks(manifest) == []


def test_one_file_in_two_splits_is_one_leak(leaky):
    manifest = leaky([("a", "test", None), ("b", "train", None), ("a", "train", None)], a=b"1", b=b"22")
    assert summary(find_leaks(manifest)) == [("path", "a.mp4", ("train", "test"), (0, 2))]


def test_one_group_in_three_splits_is_one_leak(leaky):
    manifest = leaky([("a", "test", "g"), ("b", "val", "g"), ("c", "train", "g"), ("d", "train", "h")])
    assert summary(find_leaks(manifest)) == [("group", "g", ("train", "val", "test"), (0, 1, 2))]


def test_equal_bytes_with_two_names_are_a_leak(leaky):
    rows = [("a", "train", None), ("b", "test", None), ("c", "test", None), ("d", "train", None)]
    manifest = leaky(rows, a=b"same", b=b"same", c=b"size", d=b"other")
    (leak,) = find_leaks(manifest)
    assert (leak.kind, leak.splits, leak.rows) == ("content", ("train", "test"), (0, 1))
    assert len(leak.value) == 64
    assert find_leaks(manifest, content=False) == []


def test_copies_inside_one_split_are_not_leaks(leaky):
    rows = [("a", "train", None), ("b", "train", None), ("c", "test", None)]
    assert find_leaks(leaky(rows, a=b"same", b=b"same", c=b"else")) == []


def test_absent_empty_and_unassigned_files_do_not_leak(leaky):
    rows = [("a", "train", None), ("b", "test", None), ("c", None, None), ("d", "test", None)]
    assert find_leaks(leaky(rows, a=b"", b=b"", c=b"1", d=b"1")) == []


def test_file_of_unique_size_is_not_read(leaky, tmp_path):
    manifest = leaky([("a", "train", None), ("b", "test", None)], a=b"1", b=b"22")
    for path in tmp_path.glob("*.mp4"):
        path.chmod(0)
    assert find_leaks(manifest) == []


def test_leaks_are_refused_with_their_count(leaky):
    rows = [("a", "train", "g"), ("a", "test", "g"), ("b", "test", None), ("c", "train", None)]
    manifest = leaky(rows, a=b"1", b=b"22", c=b"22")
    message = (
        r"protocol.csv: 3 leaks between splits \(1 by path, 1 by group, 1 by content\) reach 4 rows: "
        r"'a.mp4' in train and test; group 'g' of 'a.mp4' \(train\) and 'a.mp4' \(test\); "
        r"equal content of 'c.mp4' \(train\) and 'b.mp4' \(test\); put each"
    )
    with pytest.raises(ManifestError, match=message):
        refuse_leaks(manifest)


def test_allowed_leaks_log_a_warning(leaky, caplog):
    manifest = leaky([("a", "train", None), ("a", "test", None)])
    with caplog.at_level(logging.WARNING):
        assert len(refuse_leaks(manifest, allow=True)) == 1
    assert "allowed: numbers from these splits are too good" in caplog.text


def test_leaky_manifest_is_refused_unless_leaks_are_allowed(leaky, tmp_path):
    write_manifest(leaky([("a", "train", "g"), ("b", "test", "g"), ("a", "test", None)]), tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="1 group is in more than one split"):
        read_manifest(tmp_path / "m.csv")
    manifest = read_manifest(tmp_path / "m.csv", allow_leaks=True)
    assert len(find_leaks(manifest)) == 2


def test_allowed_leaks_survive_selection_and_splitting(leaky):
    rows = [(str(k), "train", f"g{k}") for k in range(10)] + [("0", "test", "g0")]
    manifest = assign_splits(leaky(rows), seed=1)
    assert manifest.splits() == ("train", "val", "test")
    assert len(manifest.select([0, 10])) == 2
    assert len(few_shot(manifest, shots=2, seed=0)) == 2


def test_repeated_row_is_refused_even_if_leaks_are_allowed(leaky):
    with pytest.raises(ManifestError, match="listed more than once"):
        leaky([("a", "train", None), ("a", "train", None)])


def test_only_the_first_leaks_are_named(leaky):
    rows = [(name, split, None) for name in "abcde" for split in ("train", "test")]
    with pytest.raises(ManifestError, match=r"'a.mp4' in train and test; 'b.mp4' .*; and 2 more;"):
        refuse_leaks(leaky(rows), content=False)
