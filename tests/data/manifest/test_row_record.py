"""Record of rows: contents, differences between records, and videos that an evaluation must not see."""

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.data.manifest.row_record import RowRecord, refuse_used, sampled_digest


@pytest.fixture
def listed(tmp_path):
    """Return a function that writes files and returns their manifest: name -> (split, content)."""

    def make(files, folder="videos", **columns):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, (_, content) in files.items():
            (root / name).write_bytes(content)
        table = {"path": list(files), "label": ["x"] * len(files), "split": [s for s, _ in files.values()]}
        return Manifest(pa.table(table | columns), root, f"{folder}.csv")

    return make


def recorded(manifest, known=None, **options):
    rows = {split: manifest.in_split(split) for split in ("train", "val")}
    return RowRecord.of(manifest, rows, known=known, **options)


FILES = {"a": ("train", b"1"), "b": ("train", b"22"), "c": ("val", b"333"), "d": ("test", b"4444")}


def test_record_survives_its_file(listed, tmp_path):
    record = recorded(listed(FILES))
    record.write(tmp_path / "rows.parquet")
    again = RowRecord.read(tmp_path / "rows.parquet")
    assert again.table.equals(record.table)
    assert (again.root, again.source, again.keys()) == (record.root, "videos.csv", record.keys())
    assert again.assignment() == {"a": "train", "b": "train", "c": "val", "d": "test"}
    assert again.table["use"].to_pylist() == ["train", "train", "val", None]


def test_damaged_record_is_reported(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ArtifactError, match=r"rows.parquet: cannot be read as a record of videos"):
        RowRecord.read(tmp_path / "rows.parquet")


def test_groups_are_assigned_by_name(listed):
    record = recorded(listed(FILES, group=["g", "g", None, None]))
    assert record.assignment() == {"g": "train", "c": "val", "d": "test"}


def test_equal_videos_have_no_difference_wherever_they_are(listed):
    moved = {f"new-{name}": facts for name, facts in FILES.items()}
    before, after = recorded(listed(FILES)), recorded(listed(moved, "elsewhere"))
    assert not before.difference(after)
    assert before.keys() == after.keys()


def test_difference_names_the_videos_of_each_kind(listed):
    before = recorded(listed(FILES))
    files = FILES | {"b": ("val", b"22"), "c": ("val", b"changed"), "e": ("train", b"new")}
    del files["a"]
    difference = before.difference(recorded(listed(files, "new")))
    assert (difference.added, difference.removed) == (("e",), ("a",))
    assert (difference.moved, difference.changed) == (("b (train to val)",), ("c",))
    assert str(difference) == (
        "1 added: e; 1 removed: a; 1 moved between splits: b (train to val); 1 with other content: c"
    )


def test_exchanged_splits_are_a_difference(listed):
    exchanged = {"a": ("val", b"1"), "b": ("val", b"22"), "c": ("train", b"333"), "d": ("test", b"4444")}
    difference = recorded(listed(FILES)).difference(recorded(listed(exchanged, "new")))
    assert len(difference.moved) == 3


def test_other_label_is_a_difference(listed):
    relabelled = listed(FILES)
    table = relabelled.table.set_column(1, "label", pa.array(["y", "x", "x", "x"]))
    difference = recorded(relabelled).difference(recorded(Manifest(table, relabelled.root, "m")))
    assert difference.relabelled == ("a (x to y)",)


def test_additional_test_videos_are_no_difference(listed):
    assert not recorded(listed(FILES)).difference(recorded(listed(FILES | {"e": ("test", b"5")}, "new")))


def test_copies_of_one_video_count_singly(listed):
    twins = {"a": ("train", b"1"), "b": ("train", b"1"), "c": ("val", b"3")}
    three = twins | {"e": ("train", b"1")}
    assert recorded(listed(twins)).difference(recorded(listed(three, "new"))).added == ("e",)


def test_absent_file_is_compared_by_its_path(listed):
    manifest = listed(FILES)
    (manifest.root / "a").unlink()
    assert not recorded(manifest).difference(recorded(manifest))
    assert recorded(manifest).table["content"].to_pylist()[0] is None


def test_untouched_files_are_not_read_again(listed, monkeypatch):
    manifest = listed(FILES)
    before = recorded(manifest)
    (manifest.root / "b").write_bytes(b"other")
    read = []
    monkeypatch.setattr(
        "evclip_ray.data.manifest.row_record.sampled_digest",
        lambda place: read.append(place.name) or "sampled:0",
    )
    counts = []
    recorded(manifest, known=before, progress=lambda done, total: counts.append((done, total)))
    assert read == ["b"]
    assert counts == [(1, 1)]


@pytest.mark.parametrize("position", [0, 500_000, 999_999])
def test_digest_samples_the_ends_and_the_middle(tmp_path, position):
    data = bytearray(1_000_000)
    (tmp_path / "a").write_bytes(data)
    data[position] = 1
    (tmp_path / "b").write_bytes(data)
    assert sampled_digest(tmp_path / "a") != sampled_digest(tmp_path / "b")


def test_folder_of_frames_has_a_digest(tmp_path):
    for folder, last in (("a", b"3"), ("b", b"3"), ("c", b"4")):
        (tmp_path / folder).mkdir()
        for number, data in enumerate((b"1", b"2", last)):
            (tmp_path / folder / f"{number}.jpg").write_bytes(data)
    a, b, c = (sampled_digest(tmp_path / name) for name in "abc")
    assert a == b != c


def test_object_versions_stand_for_contents(listed, memory_bucket):
    local = recorded(listed(FILES))
    remote = recorded(memory_bucket(FILES))
    assert all(text.startswith("version:") for text in remote.table["content"].to_pylist())
    # A copy of the local folder on a storage is known by path and size.
    assert not local.difference(recorded(memory_bucket(FILES), known=local))


@pytest.fixture
def memory_bucket(monkeypatch):
    """Return a function that writes files to fsspec's storage in memory, and returns their manifest."""
    # The storage in memory has no ETag. Its time of creation stands for one.
    monkeypatch.setattr(storage, "_VERSIONS", ("created",))
    system = fsspec.filesystem("memory")

    def make(files):
        for name, (_, content) in files.items():
            system.pipe_file(f"/row-record/{name}", content)
        table = {"path": list(files), "label": ["x"] * len(files), "split": [s for s, _ in files.values()]}
        return Manifest(pa.table(table), "memory://row-record", "remote.csv")

    yield make
    if system.exists("/row-record"):
        system.rm("/row-record", recursive=True)


def test_overlap_is_by_file_and_by_content(listed, tmp_path):
    record = recorded(listed(FILES))
    renamed = {"x": ("test", b"22"), "y": ("test", b"55555"), "d": ("test", b"4444"), "z": ("test", b"333")}
    other = listed(renamed, "other")
    assert record.overlap(other, np.arange(4)) == {0: ("train", "b"), 3: ("val", "c")}
    assert record.overlap(other, np.array([1, 2])) == {}
    same_file = Manifest(
        pa.table({"path": [f"file://{tmp_path}/videos/a"], "label": ["x"]}), tmp_path, "links.csv"
    )
    assert record.overlap(same_file, np.array([0])) == {0: ("train", "a")}


def test_overlap_of_an_object_and_a_local_copy(memory_bucket, listed):
    record = recorded(memory_bucket(FILES))
    copies = listed({"x": ("test", b"22"), "y": ("test", b"99")}, "copies")
    assert record.overlap(copies, np.arange(2)) == {0: ("train", "b")}


def test_empty_files_do_not_overlap(listed):
    record = recorded(listed({"a": ("train", b""), "c": ("val", b"3")}))
    assert record.overlap(listed({"x": ("test", b"")}, "other"), np.array([0])) == {}


def test_parts_of_one_training_video_overlap(tmp_path):
    parts = pa.table({"path": ["a.mp4"] * 3, "label": ["x"] * 3, "start_seconds": [0.0, 1.0, 2.0]})
    record = RowRecord.of(Manifest(parts, tmp_path, "a.csv"), {"train": np.array([0, 1])})
    assert record.overlap(Manifest(parts, tmp_path, "b.csv"), np.array([2])) == {2: ("train", "a.mp4")}


def test_used_videos_are_refused_unless_allowed(listed, caplog):
    record = recorded(listed(FILES))
    other = listed({"x": ("test", b"22"), "c": ("test", b"333"), "d": ("test", b"4444")}, "other")
    message = (
        r"other.csv: 2 of the 3 videos to score were used for this checkpoint \(1 trained, 1 selected it\); "
        r"the first is 'x' \(in training as 'b'\)\. Evaluate on other videos"
    )
    with pytest.raises(ManifestError, match=message):
        refuse_used(record, other, np.arange(3))
    assert refuse_used(record, other, np.arange(3), allow=True) == {0, 1}
    assert "numbers from these videos are too good" in caplog.text
    assert refuse_used(record, other, np.array([2])) == frozenset()
