import csv
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest

from evclip_ray.artifacts import ArtifactError, file_digest, read_ledger
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.crash_guard import Attempts
from evclip_ray.data.shards.format import view_seed
from evclip_ray.data.shards.prepare import open_shards, prepare_shards
from evclip_ray.data.synthetic import write_synthetic
from evclip_ray.data.video.decode import Part, decode_view, decode_views
from evclip_ray.data.video.sampling import spread_offsets
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)
SETTINGS = {"view": VIEW, "num_views": 2, "seed": 5, "rows_per_shard": 4}
BROKEN = "spinning_around/001.mp4"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """18 videos, one of which is noise."""
    folder = tmp_path_factory.mktemp("videos")
    manifest = read_manifest(write_synthetic(folder, videos_per_class=3, size=32, num_frames=12))
    (folder / BROKEN).write_bytes(b"noise" * 100)
    return manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, manifest, local_ray):
    path = tmp_path_factory.mktemp("shards") / "made"
    prepare_shards(manifest, folder=path, **SETTINGS)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the finished folder, to damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def contents(folder):
    return {path.name: file_digest(path) for path in folder.glob("*.arrow")}


def test_without_ray_the_message_says_what_to_call(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"call ray.init\(\) first"):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS)


def test_ray_client_is_refused_with_what_to_give_instead(manifest, tmp_path, monkeypatch, local_ray):
    from ray.util import client

    monkeypatch.setattr(type(client.ray), "is_connected", lambda self: True)
    with pytest.raises(ValueError, match="does not run through ray://; give --address http://HOST:8265"):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS)


def test_every_good_video_is_there_with_the_pixels_of_its_view(folder, manifest):
    found = open_shards(folder)
    assert len(found) == 17
    assert found.num_views == 2
    assert found.view == VIEW
    assert found.paths == [path for path in manifest.column("path") if path != BROKEN]
    rows = [manifest.rows()[row] for row in found.rows]
    assert found.labels == [row["label"] for row in rows]
    assert found.splits == [row["split"] for row in rows]
    assert found.groups == [row["group"] for row in rows]
    for position in (0, 5, 16):
        row = rows[position]
        for view, frames in enumerate(found.views(position)):
            seed = view_seed(5, row, view)
            assert (frames == decode_view(manifest.root / row["path"], view=VIEW, seed=seed)).all()


def test_the_first_view_is_the_deterministic_one_and_the_others_are_drawn():
    video = {"path": "a.mp4"} | dict.fromkeys(Part.__annotations__)
    assert view_seed(0, video, 0) is None
    draws = {view_seed(s, video | {"path": p}, v) for s in (0, 1) for p in "ab" for v in (1, 2)}
    assert len(draws) == 8
    assert view_seed(0, video, 1) == view_seed(0, dict(video, label="x"), 1)


def test_a_batch_is_frames_in_the_order_asked_for(folder):
    found = open_shards(folder)
    batch = found.frames([7, 2, 7], view=1)
    assert batch.shape == (3, 4, 32, 32, 3)
    assert batch.dtype == np.uint8
    assert (batch[0] == batch[2]).all()
    assert (batch[1] == found.views(2)[1]).all()
    with pytest.raises(ValueError, match="view must be 0 to 1, got 2"):
        found.frames([0], view=2)


def test_reading_maps_the_file_and_copies_nothing(folder):
    found = open_shards(folder)
    before = pa.total_allocated_bytes()
    views = [found.views(position) for position in range(len(found))]
    assert pa.total_allocated_bytes() - before < views[0].nbytes
    assert not views[0].flags.writeable
    assert not views[0].flags.owndata


def test_a_bad_video_is_quarantined_and_its_neighbours_are_kept(folder):
    found = open_shards(folder)
    assert [(video["path"], video["row"]) for video in found.skipped] == [
        (BROKEN, read_ledger(folder, "shards")["skipped"][0]["row"])
    ]
    assert read_ledger(folder, "shards")["counts"] == {"videos": 17, "skipped": 1, "shards": 5}
    with (folder / "quarantine.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"path": BROKEN, "reason": "cannot be opened (Invalid data found when processing input)"}
        ]


def test_splits_and_subsets_are_positions(folder):
    found = open_shards(folder)
    test = found.split("test")
    assert [found.splits[position] for position in test] == ["test"] * len(test)
    assert found.split("nothing").tolist() == []
    part = found.subset(test)
    assert part.paths == [found.paths[position] for position in test]
    assert (part.frames([1]) == found.frames([test[1]])).all()
    assert part.subset([1]).paths == [part.paths[1]]


def test_a_set_pickles_as_its_path(folder):
    part = open_shards(folder).subset([3, 1])
    data = pickle.dumps(part)
    assert len(data) < 1000
    assert pickle.loads(data).paths == part.paths
    assert (pickle.loads(data).frames([0, 1]) == part.frames([0, 1])).all()


def test_plain_arrow_reads_a_shard(folder):
    table = pa.ipc.open_file(folder / "shard-00000.arrow").read_all()
    assert table.num_rows == 8
    assert table.column_names == ["frames", "label", "path", "row", "view", "split", "group"]
    assert table.schema.field("frames").type == pa.fixed_shape_tensor(pa.uint8(), (4, 32, 32, 3))
    assert table["view"].to_pylist() == [0, 1] * 4
    frames = table["frames"].chunk(0).to_numpy_ndarray()
    assert (frames[0] == open_shards(folder).frames([0])[0]).all()


def test_what_is_finished_needs_no_ray_and_is_not_touched(copy, manifest, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    prepare_shards(manifest, folder=copy, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_a_preparation_that_was_killed_goes_on_and_ends_with_the_same_bytes(copy, manifest, local_ray):
    whole = contents(copy)
    kept = (copy / "shard-00000.arrow").stat().st_mtime_ns
    for name in ("ledger.json", "index.arrow", "shard-00002.arrow"):
        (copy / name).unlink()
    (copy / ".shard-00002.arrow.x1y2").write_bytes(b"half a shard")
    os.truncate(copy / "shard-00003.arrow", 1000)
    calls = []
    prepare_shards(
        manifest, folder=copy, **SETTINGS, progress=lambda done, total: calls.append((done, total))
    )
    assert contents(copy) == whole
    assert (copy / "shard-00000.arrow").stat().st_mtime_ns == kept
    assert sorted(done for done, _ in calls) == [14, 18]
    assert not list(copy.glob(".shard-*"))


def test_an_interrupted_run_keeps_what_it_finished(folder, manifest, tmp_path, local_ray):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS, progress=interrupt)
    assert list(tmp_path.glob("shard-*.arrow"))
    assert not (tmp_path / "ledger.json").exists()
    prepare_shards(manifest, folder=tmp_path, **SETTINGS)
    assert contents(tmp_path) == contents(folder)


def test_a_shard_that_went_missing_is_noticed_and_made_again(copy, manifest, local_ray):
    whole = contents(copy)
    (copy / "shard-00001.arrow").unlink()
    with pytest.raises(ArtifactError, match="prepare again"):
        open_shards(copy).views(4)
    prepare_shards(manifest, folder=copy, **SETTINGS)
    assert contents(copy) == whole


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 6}, "seed"), ({"num_views": 1}, "num_views"), ({"view": ViewConfig(num_frames=2)}, "view")],
)
def test_a_folder_made_otherwise_is_refused_and_names_the_difference(copy, manifest, change, named):
    with pytest.raises(ArtifactError, match=rf"different: {named}\)"):
        prepare_shards(manifest, folder=copy, **SETTINGS | change)


def test_an_edited_video_is_noticed_and_only_its_shard_is_made_again(copy, manifest, tmp_path, local_ray):
    videos = shutil.copytree(manifest.root, tmp_path / "videos")
    moved = read_manifest(videos / "manifest.csv")
    prepare_shards(moved, folder=copy, **SETTINGS)
    shutil.copy(videos / "spinning_around" / "000.mp4", videos / moved.column("path")[0])
    with pytest.raises(ArtifactError, match=r"different: videos\)"):
        prepare_shards(moved, folder=copy, **SETTINGS)
    before = contents(copy)
    (copy / "ledger.json").unlink()
    prepare_shards(moved, folder=copy, **SETTINGS)
    changed = [name for name, digest in contents(copy).items() if digest != before[name]]
    assert sorted(changed) == ["index.arrow", "shard-00000.arrow"]


def test_rows_are_chosen_by_index(manifest, tmp_path, local_ray):
    found = prepare_shards(manifest, [4, 2], view=VIEW, folder=tmp_path)
    assert found.rows.tolist() == [4, 2]
    assert read_ledger(tmp_path, "shards")["counts"]["shards"] == 1


def test_parts_of_one_video_are_videos_of_their_own(tmp_path, write_video, make_manifest, local_ray):
    path = write_video(tmp_path / "v.mp4", num_frames=60)
    parts = make_manifest(
        path=["v.mp4"] * 3, label=["a", "b", "c"], start_seconds=[0.0, 1.0, 9.0], end_seconds=[1.0, 2.0, 10.0]
    )
    found = prepare_shards(parts, view=VIEW, folder=tmp_path / "shards")
    assert found.labels == ["a", "b"]
    assert "no frame is shown from 9.0" in found.skipped[0]["reason"]
    assert (found.frames([1])[0] == decode_view(path, view=VIEW, start_seconds=1.0, end_seconds=2.0)).all()
    assert found.splits == [None, None]


def test_when_no_video_decodes_the_first_reason_is_told(tmp_path, make_manifest, local_ray):
    absent = make_manifest(path=["a.mp4", "b.mp4"], label=["x", "y"])
    with pytest.raises(ValueError, match=r"none of 2 videos decodes; the first: a.mp4 .*No such file"):
        prepare_shards(absent, view=VIEW, folder=tmp_path / "shards")
    assert (tmp_path / "shards" / "quarantine.csv").exists()
    assert not (tmp_path / "shards" / "ledger.json").exists()


def test_a_node_with_another_decoder_refuses_to_mix(manifest, tmp_path):
    from evclip_ray.data.shards.format import ShardJob, write_shard

    job = ShardJob("shard-00000.arrow", [], VIEW, 1, 0, "another decoder 1.0")
    with (
        Attempts(tmp_path / "attempts", seconds=60) as attempts,
        pytest.raises(RuntimeError, match=r"the job needs another decoder 1\.0: install the same"),
    ):
        write_shard(job, root=tmp_path, folder=tmp_path, attempts=attempts)


def test_a_foreign_or_unfinished_folder_is_no_shard_set(copy, tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_shards(tmp_path / "nowhere")
    (copy / "index.arrow").write_bytes(b"")
    with pytest.raises(ArtifactError, match="prepare the shards again"):
        open_shards(copy)


def test_impossible_counts_are_refused(manifest, tmp_path):
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        prepare_shards(manifest, view=VIEW, folder=tmp_path, num_views=0)


def test_without_a_seed_the_views_are_spread_evenly(manifest, tmp_path, local_ray):
    found = prepare_shards(manifest, [0, 1], folder=tmp_path, view=VIEW, num_views=3, seed=None)
    path = manifest.root / found.paths[1]
    expected = decode_views(path, view=VIEW, seeds=[None] * 3, offsets=spread_offsets(3))
    assert (found.views(1) == expected).all()
    assert (found.views(1)[1] == decode_view(path, view=VIEW)).all()
    assert not (found.views(1)[0] == found.views(1)[2]).all()
