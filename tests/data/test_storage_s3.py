"""Videos in S3, on a local server of the protocol. In one file because the tests share this server."""

import http.client
import logging

import numpy as np
import pytest

from evclip_ray.data import storage
from evclip_ray.data.importers import import_dataset
from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.manifest.leaks import find_leaks
from evclip_ray.data.manifest.manifest import read_manifest, write_manifest
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.storage import StorageError
from evclip_ray.data.video.decode import decode_view, probe
from evclip_ray.data.video.view import ViewConfig

server = pytest.importorskip("moto.server", reason="needs moto[server], a local server of S3's protocol")
s3fs = pytest.importorskip("s3fs", reason="needs s3fs")

VIEW = ViewConfig(num_frames=4, height=48, width=64)
LABELS = "id,name\n0,run\n1,wave\n"


@pytest.fixture(scope="module")
def bucket():
    """Start an S3 server with one bucket and set the environment to find it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    host, port = s3.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        system.mkdir("videos")
        yield system
        s3fs.S3FileSystem.clear_instance_cache()
    s3.stop()


@pytest.fixture(scope="module")
def s3_ray(bucket, local_ray, restart_ray):
    """Restart the session's Ray: its workers inherit the environment of its start, which lacks the bucket.

    It is not restarted afterwards, which takes seconds: no other test reads from a storage in a worker.
    """
    restart_ray()
    return local_ray


@pytest.fixture
def videos(bucket, tmp_path, write_video):
    """Write six videos of two classes under s3://videos/set and locally; return the local folder."""
    bucket.rm("videos/set", recursive=True) if bucket.exists("videos/set") else None
    for number in range(6):
        name = f"{('run', 'wave')[number % 2]}/{number}.mp4"
        bucket.put(str(write_video(tmp_path / "set" / name, num_frames=12 + number)), f"videos/set/{name}")
    lists = {"train.txt": "run/0.mp4 0\nwave/1.mp4 1\nrun/2.mp4 0\nwave/3.mp4 1\n", "labels.csv": LABELS}
    for name, text in (lists | {"test.txt": "run/4.mp4 0\nwave/5.mp4 1\nrun/9.mp4 0\n"}).items():
        (tmp_path / name).write_text(text)
    return tmp_path / "set"


def imported(root, lists):
    return import_dataset(
        "path_label", root, lists=lists, labels="labels.csv", train="train.txt", test="test.txt"
    )


def test_lists_of_objects_give_the_same_shards_as_files(videos, tmp_path, bucket, s3_ray):
    there, here = imported("s3://videos/set", tmp_path), imported(videos, tmp_path)
    assert there.missing == ("run/9.mp4",)
    assert there.manifest.digest() == here.manifest.digest()
    write_manifest(there.manifest, tmp_path / "m.csv")
    bucket.put(str(tmp_path / "m.csv"), "videos/set/m.csv")
    manifest = read_manifest("s3://videos/set/m.csv")
    shards = prepare_shards(manifest, view=VIEW, folder=tmp_path / "there", num_views=2)
    same = prepare_shards(here.manifest, view=VIEW, folder=tmp_path / "here", num_views=2)
    assert shards.paths == same.paths
    assert all((shards.views(k) == same.views(k)).all() for k in range(len(same)))


def test_replaced_object_of_equal_size_is_detected(videos, tmp_path, bucket):
    before = storage.identities("s3://videos/set", ["run/0.mp4"])
    data = bytearray((videos / "run" / "0.mp4").read_bytes())
    data[-1] ^= 1
    bucket.pipe("videos/set/run/0.mp4", bytes(data))
    after = storage.identities("s3://videos/set", ["run/0.mp4"])["run/0.mp4"]
    assert after.size == before["run/0.mp4"].size
    assert after != before["run/0.mp4"]


def test_absent_object_is_quarantined_without_neighbours(videos, tmp_path, s3_ray):
    (tmp_path / "m.csv").write_text("path,label\nrun/0.mp4,x\nrun/absent.mp4,y\n")
    manifest = read_manifest(tmp_path / "m.csv", root="s3://videos/set")
    shards = prepare_shards(manifest, view=VIEW, folder=tmp_path / "shards")
    assert len(shards) == 1
    (skipped,) = shards.skipped
    assert (skipped["path"], skipped["reason"]) == (
        "run/absent.mp4",
        "cannot be opened (no such object; check the URI and its bucket)",
    )


def test_missing_bucket_is_reported_before_writing(tmp_path, bucket, s3_ray):
    (tmp_path / "m.csv").write_text("path,label\na.mp4,x\n")
    manifest = read_manifest(tmp_path / "m.csv", root="s3://other-bucket/set")
    with pytest.raises(ValueError, match=r"none of 1 video decodes; .*check the URI and its bucket"):
        prepare_shards(manifest, view=VIEW, folder=tmp_path / "shards")


def test_verify_reads_videos_of_a_storage(videos, tmp_path, bucket):
    bucket.pipe("videos/set/run/0.mp4", b"no video")
    manifest = imported("s3://videos/set", tmp_path).manifest
    reports = list(verify_manifest(manifest, workers=2))
    assert [report.ok for report in reports] == [False, True, True, True, True, True]
    assert reports[1].info.num_frames == 13


def test_equal_objects_with_two_names_are_a_leak(videos, tmp_path, bucket):
    bucket.copy("videos/set/run/0.mp4", "videos/set/run/4.mp4")
    (leak,) = find_leaks(imported("s3://videos/set", tmp_path).manifest)
    assert (leak.kind, leak.rows) == ("content", (0, 4))


def test_part_of_a_long_object_fetches_only_its_blocks(bucket, tmp_path, monkeypatch):
    import av

    path = tmp_path / "long.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        # A codec of `SEEKABLE_CODECS`: a video in another one is read from its start.
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 10**7
        for number in range(900):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    bucket.put(str(path), "videos/long.mp4")
    fetched = []
    fetch = s3fs.core.S3File._fetch_range
    monkeypatch.setattr(
        s3fs.core.S3File,
        "_fetch_range",
        lambda self, start, end: fetched.append(end - start) or fetch(self, start, end),
    )
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 2**14)
    part = {"start_seconds": 20.0, "end_seconds": 21.0}
    view = decode_view("s3://videos/long.mp4", view=VIEW, **part)
    assert (view == decode_view(path, view=VIEW, **part)).all()
    assert 0 < sum(fetched) < path.stat().st_size / 3


def test_playlist_in_a_storage_opens_no_other_file(bucket, tmp_path, write_video):
    secret = write_video(tmp_path / "secret.mp4")
    bucket.pipe("videos/list.mp4", f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode())
    with pytest.raises(ValueError, match=r"cannot be opened|no video stream"):
        probe("s3://videos/list.mp4")


def test_credential_errors_name_the_variables_to_set(bucket, videos, tmp_path, monkeypatch):
    endpoint = http.client.HTTPConnection(*bucket.s3.meta.endpoint_url.removeprefix("http://").split(":"))

    def ask_for_keys_after(count):
        endpoint.request("POST", "/moto-api/reset-auth", body=str(count))
        endpoint.getresponse().read()

    ask_for_keys_after(0)
    try:
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(
            StorageError, match=r"s3://videos/set/run/0.mp4: access denied .*AWS_ACCESS_KEY_ID"
        ):
            decode_view("s3://videos/set/run/0.mp4", view=VIEW)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match=r"access denied .* set credentials"):
            read_manifest("s3://videos/set/m.csv")
    finally:
        ask_for_keys_after(10**9)
        s3fs.S3FileSystem.clear_instance_cache()
