import numpy as np
import pyarrow as pa

from evclip_ray.data.manifest.class_table import class_lines, class_table
from evclip_ray.data.manifest.manifest import Manifest


def listed(counts, tmp_path):
    """Return a manifest with `counts[label] = (train, test)` videos."""
    rows = [
        {"path": f"{label}{split}{k}.mp4", "label": label, "split": split}
        for label, numbers in counts.items()
        for split, number in zip(("train", "test"), numbers, strict=True)
        for k in range(number)
    ]
    return Manifest(pa.Table.from_pylist(rows), tmp_path, "list")


def test_table_counts_each_class_in_each_split(tmp_path):
    manifest = listed({"hug": (3, 1), "kick": (2, 0)}, tmp_path)
    assert class_table(manifest) == [
        {"class": "hug", "train": 3, "test": 1},
        {"class": "kick", "train": 2, "test": 0},
    ]
    assert class_lines(class_table(manifest)) == [
        "class  train  test",
        "hug        3     1",
        "kick       2     0",
    ]


def test_chosen_rows_replace_those_of_the_list(tmp_path):
    manifest = listed({"hug": (3, 1), "kick": (2, 0)}, tmp_path)
    chosen = class_table(manifest, {"train": np.array([0, 4])})
    assert [row["train"] for row in chosen] == [1, 1]
    assert [row["test"] for row in chosen] == [1, 0]


def test_long_table_is_folded_after_the_smallest_classes(tmp_path):
    manifest = listed({f"c{k:02}": (k + 1, 1) for k in range(30)}, tmp_path)
    table = class_table(manifest)
    assert len(table) == 19
    assert table[0] == {"class": "c00", "train": 1, "test": 1}
    assert table[-1] == {"class": "12 other classes", "train": "19 to 30", "test": "1"}
    assert len(class_table(manifest, max_classes=None)) == 30


def test_videos_without_splits_have_one_column(tmp_path):
    manifest = Manifest(pa.table({"path": ["a", "b"], "label": ["x" * 50, "y"]}), tmp_path, "list")
    assert [row["none"] for row in class_table(manifest)] == [1, 1]
    assert class_lines(class_table(manifest))[1] == f"{'x' * 37}...     1"
