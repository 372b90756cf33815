"""Masks that are named in a list after its videos were decoded."""

import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.evaluation.listed_masks import cache_of, list_of, with_unchanged_masks
from evclip_ray.training.experiment import DataConfig


@pytest.fixture
def listed(tmp_path):
    """Return a list of three files with masks, of which the last two select, and its record."""
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 100)
    columns = {
        "path": ["a.mp4", "b.mp4", "c.mp4"],
        "label": ["x", "y", "x"],
        "mask": ["a.npz", "b.npz", "c.npz"],
    }
    manifest = Manifest(pa.table(columns), tmp_path, "manifest.csv")
    record = tmp_path / "rows.parquet"
    RowRecord.of(manifest, {"train": np.array([0]), "val": np.array([1, 2])}).write(record)
    return manifest, record


def test_masks_of_changed_validation_videos_are_left_out(listed, tmp_path, caplog):
    manifest, record = listed
    assert with_unchanged_masks(manifest, record) is manifest
    (tmp_path / "a.mp4").write_bytes(b"another training video")
    (tmp_path / "c.mp4").write_bytes(b"another video under the same name")
    assert with_unchanged_masks(manifest, record).column("mask") == ["a.npz", "b.npz", None]
    assert "1 validation video has changed since the training, such as 'c.mp4'" in caplog.text


def test_copies_of_the_videos_keep_their_masks(listed, tmp_path):
    manifest, record = listed
    content = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").unlink()
    (tmp_path / "b.mp4").write_bytes(content)
    assert with_unchanged_masks(manifest, record).column("mask") == ["a.npz", "b.npz", "c.npz"]


def test_nothing_is_compared_without_a_record(listed, tmp_path):
    manifest, _ = listed
    assert with_unchanged_masks(manifest, tmp_path / "absent.parquet") is manifest


def test_world_that_is_not_drawn_yet_is_not_drawn(tmp_path, caplog):
    data = DataConfig.load({"world": {"domain": "plain"}})
    assert list_of(data, tmp_path) is None
    assert not any(tmp_path.iterdir())
    assert "true masks are not shown" in caplog.text
    assert list_of(DataConfig.load({"manifest": str(tmp_path / "gone.csv")}), tmp_path) is None


def test_cache_of_missing_videos_is_unknown(tmp_path):
    assert cache_of(tmp_path / "absent.json") is None
    for folders in ("{}", f'{{"val": "{tmp_path}/cache/shards/1"}}'):
        (tmp_path / "videos.json").write_text(f'{{"folders": {folders}}}')
        assert cache_of(tmp_path / "videos.json") is None
    (tmp_path / "cache" / "shards" / "1").mkdir(parents=True)
    (tmp_path / "cache" / "shards" / "1" / "ledger.json").write_text("{}")
    assert cache_of(tmp_path / "videos.json") == tmp_path / "cache"
