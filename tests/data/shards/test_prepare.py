import csv
import os
import pickle
import shutil

import av
import numpy as np
import pyarrow as pa
import pytest
from synthetic_videos import write_synthetic

from evclip_ray.artifacts import ArtifactError, file_digest, read_ledger
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.shards.format import view_seed
from evclip_ray.data.shards.prepare import _report_long, open_shards, prepare_shards
from evclip_ray.data.video.decode import Part, decode_view, decode_views
from evclip_ray.data.video.sampling import spread_offsets
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)
SETTINGS = {"view": VIEW, "num_views": 2, "seed": 5, "rows_per_shard": 4}
BROKEN = "spinning_around/001.mp4"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a manifest of 18 videos, one of which is noise."""
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
    """Return a copy of the finished folder, to damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def contents(folder):
    return {path.name: file_digest(path) for path in folder.glob("*.arrow")}


def test_error_without_ray_names_ray_init(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"call ray.init\(\) first"):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS)


def test_ray_client_is_refused_with_the_alternative(manifest, tmp_path, monkeypatch, local_ray):
    from ray.util import client

    monkeypatch.setattr(type(client.ray), "is_connected", lambda self: True)
    with pytest.raises(ValueError, match="does not work through ray://; pass --address http://HOST:8265"):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS)


def test_shards_hold_the_pixels_of_every_good_video(folder, manifest):
    shards = open_shards(folder)
    assert len(shards) == 17
    assert shards.num_views == 2
    assert shards.view == VIEW
    assert shards.paths == [path for path in manifest.column("path") if path != BROKEN]
    rows = [manifest.rows()[row] for row in shards.rows]
    assert shards.labels == [row["label"] for row in rows]
    assert shards.splits == [row["split"] for row in rows]
    assert shards.groups == [row["group"] for row in rows]
    for position in (0, 5, 16):
        row = rows[position]
        for view, frames in enumerate(shards.views(position)):
            seed = view_seed(5, row, view)
            assert (frames == decode_view(manifest.root / row["path"], view=VIEW, seed=seed)).all()


def test_first_view_has_no_seed_and_others_differ():
    video = {"path": "a.mp4"} | dict.fromkeys(Part.__annotations__)
    assert view_seed(0, video, 0) is None
    draws = {view_seed(s, video | {"path": p}, v) for s in (0, 1) for p in "ab" for v in (1, 2)}
    assert len(draws) == 8
    assert view_seed(0, video, 1) == view_seed(0, dict(video, label="x"), 1)


def test_frames_follow_the_order_of_positions(folder):
    shards = open_shards(folder)
    batch = shards.frames([7, 2, 7], view=1)
    assert batch.shape == (3, 4, 32, 32, 3)
    assert batch.dtype == np.uint8
    assert (batch[0] == batch[2]).all()
    assert (batch[1] == shards.views(2)[1]).all()
    with pytest.raises(ValueError, match="view must be 0 to 1, got 2"):
        shards.frames([0], view=2)


def test_views_are_mapped_without_a_copy(folder):
    shards = open_shards(folder)
    before = pa.total_allocated_bytes()
    views = [shards.views(position) for position in range(len(shards))]
    assert pa.total_allocated_bytes() - before < views[0].nbytes
    assert not views[0].flags.writeable
    assert not views[0].flags.owndata


def test_bad_video_is_quarantined_without_its_neighbours(folder):
    shards = open_shards(folder)
    assert [(video["path"], video["row"]) for video in shards.skipped] == [
        (BROKEN, read_ledger(folder, "shards")["skipped"][0]["row"])
    ]
    assert read_ledger(folder, "shards")["counts"] == {"videos": 17, "skipped": 1, "shards": 5}
    with (folder / "quarantine.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"path": BROKEN, "reason": "cannot be opened (Invalid data found when processing input)"}
        ]


def test_splits_and_subsets_are_positions(folder):
    shards = open_shards(folder)
    test = shards.split("test")
    assert [shards.splits[position] for position in test] == ["test"] * len(test)
    assert shards.split("nothing").tolist() == []
    part = shards.subset(test)
    assert part.paths == [shards.paths[position] for position in test]
    assert (part.frames([1]) == shards.frames([test[1]])).all()
    assert part.subset([1]).paths == [part.paths[1]]


def test_shard_set_pickles_as_its_path(folder):
    part = open_shards(folder).subset([3, 1])
    data = pickle.dumps(part)
    assert len(data) < 1000
    assert pickle.loads(data).paths == part.paths
    assert (pickle.loads(data).frames([0, 1]) == part.frames([0, 1])).all()


@pytest.fixture(scope="module")
def several_sizes(tmp_path_factory, local_ray):
    """Return shards of four videos, three of them wide, high and square, and one broken."""
    root = tmp_path_factory.mktemp("sizes")
    (root / "x").mkdir()
    sizes = [(64, 48), (48, 64), (40, 40), (64, 48)]
    for number, (width, height) in enumerate(sizes):
        with av.open(str(root / "x" / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for k in range(6):
                pixels = np.full((height, width, 3), 40 * k + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    (root / "x" / "9.mp4").write_bytes(b"noise" * 100)
    view = ViewConfig(num_frames=2, short_side=32)
    return prepare_shards(read_manifest(root), folder=root / "made", view=view, num_views=2, rows_per_shard=3)


def test_videos_keep_their_own_size(several_sizes):
    shards = several_sizes
    assert shards.sizes.tolist() == [[32, 43], [43, 32], [32, 32], [32, 43]]
    assert shards.bytes_per_view == 2 * 3 * (43 + 43 + 32 + 43) * 32 // 4
    assert [video["path"] for video in shards.skipped] == ["x/9.mp4"]
    for position, path in enumerate(shards.paths):
        expected = decode_view(shards.folder.parent / path, view=shards.view)
        assert (shards.views(position)[0] == expected).all()


def test_cut_of_long_pictures_is_reported(tmp_path, caplog):
    rows = [{"height": 32, "width": 96}, {"height": 32, "width": 95}, {"height": 96, "width": 32}]
    _report_long(tmp_path, rows)
    assert "2 videos have a picture of 3:1 or longer, of which the middle 3:1 is stored" in caplog.text
    caplog.clear()
    _report_long(tmp_path, [{"file": "a"}, rows[1]])
    assert not caplog.text


def test_frames_of_several_sizes_are_a_list(several_sizes):
    shards = several_sizes.subset([3, 1, 0])
    frames = shards.frames([0, 1], view=1)
    assert [video.shape for video in frames] == [(2, 32, 43, 3), (2, 43, 32, 3)]
    assert all((frames[p] == shards.views(p)[1]).all() for p in (0, 1))
    assert shards.frames([0, 2]).shape == (2, 2, 32, 43, 3)
    assert shards.frames([]).shape == (0, 2, 32, 32, 3)
    assert pickle.loads(pickle.dumps(shards)).sizes.tolist() == [[32, 43], [43, 32], [32, 43]]


def test_views_of_several_sizes_are_mapped(several_sizes):
    before = pa.total_allocated_bytes()
    views = [several_sizes.views(position) for position in range(4)]
    assert pa.total_allocated_bytes() - before < views[0].nbytes
    assert not any(view.flags.writeable or view.flags.owndata for view in views)


def test_plain_arrow_reads_a_shard(folder):
    table = pa.ipc.open_file(folder / "shard-00000.arrow").read_all()
    assert table.num_rows == 8
    assert table.column_names == ["frames", "label", "path", "row", "view", "split", "group"]
    assert table.schema.field("frames").type == pa.fixed_shape_tensor(pa.uint8(), (4, 32, 32, 3))
    assert table["view"].to_pylist() == [0, 1] * 4
    frames = table["frames"].chunk(0).to_numpy_ndarray()
    assert (frames[0] == open_shards(folder).frames([0])[0]).all()


def test_finished_folder_needs_no_ray_and_is_not_touched(copy, manifest, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    prepare_shards(manifest, folder=copy, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_killed_preparation_resumes_to_the_same_bytes(copy, manifest, local_ray):
    whole = contents(copy)
    time = (copy / "shard-00000.arrow").stat().st_mtime_ns
    for name in ("ledger.json", "index.arrow", "shard-00002.arrow"):
        (copy / name).unlink()
    (copy / ".shard-00002.arrow.x1y2").write_bytes(b"half a shard")
    os.truncate(copy / "shard-00003.arrow", 1000)
    calls = []
    prepare_shards(
        manifest, folder=copy, **SETTINGS, progress=lambda done, total: calls.append((done, total))
    )
    assert contents(copy) == whole
    assert (copy / "shard-00000.arrow").stat().st_mtime_ns == time
    # Named before the first shard is written.
    assert sorted(done for done, _ in calls) == [10, 14, 18]
    assert not list(copy.glob(".shard-*"))


def test_interrupted_preparation_keeps_finished_shards(folder, manifest, tmp_path, local_ray):
    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS, progress=interrupt)
    assert list(tmp_path.glob("shard-*.arrow"))
    assert not (tmp_path / "ledger.json").exists()
    prepare_shards(manifest, folder=tmp_path, **SETTINGS)
    assert contents(tmp_path) == contents(folder)


def test_missing_shard_is_reported_and_written_again(copy, manifest, local_ray):
    whole = contents(copy)
    (copy / "shard-00001.arrow").unlink()
    with pytest.raises(ArtifactError, match="prepare the shards again"):
        open_shards(copy).views(4)
    prepare_shards(manifest, folder=copy, **SETTINGS)
    assert contents(copy) == whole


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 6}, "seed"), ({"num_views": 1}, "num_views"), ({"view": ViewConfig(num_frames=2)}, "view")],
)
def test_folder_of_other_inputs_is_refused_with_the_difference(copy, manifest, change, named):
    with pytest.raises(ArtifactError, match=rf"different: {named}\)"):
        prepare_shards(manifest, folder=copy, **SETTINGS | change)


def test_edited_video_changes_only_its_shard(copy, manifest, tmp_path, local_ray):
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


def test_rows_are_selected_by_index(manifest, tmp_path, local_ray):
    shards = prepare_shards(manifest, [4, 2], view=VIEW, folder=tmp_path)
    assert shards.rows.tolist() == [4, 2]
    assert read_ledger(tmp_path, "shards")["counts"]["shards"] == 1


def test_parts_of_one_video_are_separate_rows(tmp_path, write_video, make_manifest, local_ray):
    path = write_video(tmp_path / "v.mp4", num_frames=60)
    parts = make_manifest(
        path=["v.mp4"] * 3, label=["a", "b", "c"], start_seconds=[0.0, 1.0, 9.0], end_seconds=[1.0, 2.0, 10.0]
    )
    shards = prepare_shards(parts, view=VIEW, folder=tmp_path / "shards")
    assert shards.labels == ["a", "b"]
    assert "no frame is shown from 9.0" in shards.skipped[0]["reason"]
    assert (shards.frames([1])[0] == decode_view(path, view=VIEW, start_seconds=1.0, end_seconds=2.0)).all()
    assert shards.splits == [None, None]


def test_error_without_good_videos_gives_the_first_reason(tmp_path, make_manifest, local_ray):
    absent = make_manifest(path=["a.mp4", "b.mp4"], label=["x", "y"])
    with pytest.raises(ValueError, match=r"none of 2 videos decodes; the first is a.mp4 .*No such file"):
        prepare_shards(absent, view=VIEW, folder=tmp_path / "shards")
    assert (tmp_path / "shards" / "quarantine.csv").exists()
    assert not (tmp_path / "shards" / "ledger.json").exists()


def test_node_with_another_decoder_is_refused(manifest, tmp_path):
    from evclip_ray.data.shards.format import ShardJob, write_shard

    job = ShardJob("shard-00000.arrow", [], VIEW, 1, 0, "another decoder 1.0")
    with (
        CrashGuard(tmp_path / "attempts", seconds=60) as guard,
        pytest.raises(RuntimeError, match=r"the job needs another decoder 1\.0; install the same"),
    ):
        write_shard(job, root=tmp_path, folder=tmp_path, guard=guard)


def test_unfinished_or_damaged_folder_is_refused(copy, tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_shards(tmp_path / "nowhere")
    (copy / "index.arrow").write_bytes(b"")
    with pytest.raises(ArtifactError, match="prepare the shards again"):
        open_shards(copy)


def test_counts_below_one_are_refused(manifest, tmp_path):
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        prepare_shards(manifest, view=VIEW, folder=tmp_path, num_views=0)


def test_views_without_a_seed_are_spread_evenly(manifest, tmp_path, local_ray):
    shards = prepare_shards(manifest, [0, 1], folder=tmp_path, view=VIEW, num_views=3, seed=None)
    path = manifest.root / shards.paths[1]
    expected = decode_views(path, view=VIEW, seeds=[None] * 3, offsets=spread_offsets(3))
    assert (shards.views(1) == expected).all()
    assert (shards.views(1)[1] == decode_view(path, view=VIEW)).all()
    assert not (shards.views(1)[0] == shards.views(1)[2]).all()
