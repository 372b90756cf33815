import os
import sys
import uuid

import fsspec
import pytest

from evclip_ray.data import storage
from evclip_ray.data.manifest.discovery import find_videos
from evclip_ray.data.manifest.manifest import Manifest, ManifestError, read_manifest
from evclip_ray.data.storage import StorageError, identities, is_uri, locate, place
from evclip_ray.data.video.decode import VideoError, decode_view
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)


@pytest.fixture
def remote():
    """Yield the URI of an empty folder of an in-memory storage and a function that writes files there."""
    root = f"memory://{uuid.uuid4().hex}"
    system = fsspec.filesystem("memory")

    def put(name, data):
        system.pipe(f"{root}/{name}", data)
        return f"{root}/{name}"

    yield root, put
    system.rm(root, recursive=True)


def test_uris_are_distinguished_from_paths():
    assert is_uri("s3://bucket/a.mp4")
    assert not any(map(is_uri, ["a/b.mp4", "/a/b", "http:/a:b.mp4", "C:\\videos", "a b://c"]))


def test_paths_are_relative_to_the_root_or_uris(tmp_path):
    assert locate(tmp_path, "a/b.mp4") == tmp_path / "a" / "b.mp4"
    assert locate("s3://bucket/x", "a/b.mp4") == "s3://bucket/x/a/b.mp4"
    assert locate(tmp_path, "gs://other/b.mp4") == "gs://other/b.mp4"
    assert locate("s3://bucket", f"file://{tmp_path}/b.mp4") == tmp_path / "b.mp4"
    assert place("s3://bucket/x/") == "s3://bucket/x"


def test_manifest_may_mix_paths_and_uris(tmp_path, write_video, remote):
    _, put = remote
    here = write_video(tmp_path / "videos" / "a.mp4", num_frames=9)
    there = put("b.mp4", here.read_bytes())
    elsewhere = write_video(tmp_path / "other" / "c.mp4", num_frames=9)
    rows = ["path,label", "a.mp4,x", f"{there},y", f"file://{elsewhere},x"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    manifest = read_manifest(tmp_path / "m.csv", root=tmp_path / "videos")
    one, other, third = (decode_view(manifest.locate(path), view=VIEW) for path in manifest.column("path"))
    assert (one == other).all()
    assert (one == third).all()


def test_manifest_and_videos_may_be_in_a_storage(remote, write_video, tmp_path):
    root, put = remote
    video = write_video(tmp_path / "v.mp4", num_frames=9)
    put("set/a/v.mp4", video.read_bytes())
    put("set/m.csv", f"path,label\na/v.mp4,x\n{root}/set/b.mp4,y\n".encode())
    manifest = read_manifest(f"{root}/set/m.csv")
    assert manifest.root == f"{root}/set"
    assert manifest.column("path") == ["a/v.mp4", "b.mp4"]
    assert (decode_view(manifest.locate("a/v.mp4"), view=VIEW) == decode_view(video, view=VIEW)).all()
    with pytest.raises(ManifestError, match=r"no\.csv: no such manifest"):
        read_manifest(f"{root}/set/no.csv")


def test_class_folders_of_a_storage_are_a_manifest(remote):
    root, put = remote
    for name in ("run/1.mp4", "run/2/img_00001.jpg", "wave/3.mp4", "wave/notes.txt"):
        put(name, b"x")
    manifest = read_manifest(root)
    assert list(zip(manifest.column("path"), manifest.column("label"), strict=True)) == [
        ("run/1.mp4", "run"),
        ("run/2", "run"),
        ("wave/3.mp4", "wave"),
    ]
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(f"{root}/absent")


def test_paths_outside_the_root_are_refused_unless_uris(tmp_path, make_manifest):
    with pytest.raises(ManifestError, match=r"outside the data root .* or give a URI \(file:///...\)"):
        make_manifest(path=["/elsewhere/a.mp4"], label=["x"])
    assert isinstance(make_manifest(path=["file:///elsewhere/a.mp4"], label=["x"]), Manifest)


def test_frame_folder_in_a_storage_is_a_video(tmp_path, remote):
    from PIL import Image

    root, put = remote
    for number in range(1, 13):
        Image.new("RGB", (64, 48), (10 * number, 0, 0)).save(tmp_path / "1.png")
        put(f"v/img_{number:05d}.png", (tmp_path / "1.png").read_bytes())
    frames = decode_view(f"{root}/v", view=ViewConfig(num_frames=4, height=48, width=64))
    assert (frames[:, 0, 0, 0] // 10).tolist() == [2, 5, 8, 11]
    with pytest.raises(VideoError, match=r"memory://.*/w: cannot be opened \(no such object; check the URI"):
        decode_view(f"{root}/w", view=VIEW)


def test_identity_of_an_object_changes_with_its_content(remote, tmp_path):
    root, put = remote
    put("a.mp4", b"1")
    put("v/1.jpg", b"1")
    (tmp_path / "b.mp4").write_bytes(b"1")
    paths = ["a.mp4", "v", f"file://{tmp_path}/b.mp4", "absent.mp4"]
    before = identities(root, paths)
    assert before == identities(root, paths)
    assert before["absent.mp4"] is None
    put("a.mp4", b"22")
    put("v/2.jpg", b"2")
    os.utime(tmp_path / "b.mp4", ns=(1, 1))
    after = identities(root, paths)
    assert all(before[path] != after[path] for path in paths[:3])


def test_many_objects_of_a_folder_need_one_listing(remote, monkeypatch):
    root, put = remote
    names = [f"a/{number}.mp4" for number in range(60)]
    for name in names:
        put(name, name.encode())
    put("a/frames/1.jpg", b"x")
    one_by_one = identities(root, [*names[:5], "a/frames"])
    monkeypatch.setattr(storage, "_facts", lambda uri: pytest.fail("requested one object"))
    listed = identities(root, [*names, "a/frames", "a/absent.mp4"])
    assert {path: listed[path] for path in one_by_one} == one_by_one
    assert listed["a/absent.mp4"] is None


def test_objects_of_small_folders_are_listed_together(remote, monkeypatch):
    root, put = remote
    names = [f"{label}/{number}/clip.mp4" for label in "ab" for number in range(60)]
    names += [f"c/{number}.mp4" for number in range(3)]
    for name in names:
        put(name, name.encode())
    put("a/frames/1.jpg", b"x")
    put("a/frames/2.jpg", b"y")
    names += ["a/frames", "b/0/absent.mp4"]
    one_by_one = identities(root, names)
    listed = []
    system = type(storage._system(root)[0])
    find = system.find
    monkeypatch.setattr(
        system, "find", lambda self, path, **options: listed.append(path) or find(self, path, **options)
    )
    monkeypatch.setattr(storage, "_WORTH_MERGING", 100)
    assert identities(root, names) == one_by_one
    assert sorted(path.rpartition("/")[2] for path in listed) == ["a", "b"], "c has few objects"


def test_find_videos_is_the_same_for_storage_and_folder(remote, tmp_path):
    root, put = remote
    for name in ("a/b/1.mp4", "a/2.mp4", "a.x/3.mp4", "4.mp4", "b/v/1.jpg", "b/v/2.jpg"):
        put(name, b"x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert sorted(find_videos(root)) == sorted(find_videos(tmp_path))


class Broken(fsspec.AbstractFileSystem):
    """Storage that raises `error` on every request."""

    protocol = "broken"
    error: Exception = OSError("the line is dead")

    def info(self, path, **kwargs):
        raise self.error

    def _open(self, path, **kwargs):
        raise self.error


@pytest.fixture
def broken():
    fsspec.register_implementation("broken", Broken, clobber=True)
    Broken.clear_instance_cache()
    return Broken


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Forbidden"), r"broken://a/b.mp4: access denied \(Forbidden\); set credentials"),
        (RuntimeError("Unable to locate credentials"), "access denied .* set credentials"),
        (TimeoutError("slow\nvery"), r"cannot be read \(slow very\); check the connection and run again"),
    ],
)
def test_storage_errors_are_not_video_errors(broken, monkeypatch, error, message):
    monkeypatch.setattr(broken, "error", error)
    with pytest.raises(StorageError, match=message) as caught:
        decode_view("broken://a/b.mp4", view=VIEW)
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match=message):
        identities("broken://a", ["b.mp4"])


def test_storage_failure_while_reading_is_a_storage_error(remote, write_video, tmp_path, monkeypatch):
    _, put = remote
    uri = put("v.mp4", write_video(tmp_path / "v.mp4", num_frames=400, options={"g": "10"}).read_bytes())
    read = storage._Object.read
    calls, fails_at = [], [None]

    def fail_then(self, size=-1):
        calls.append(size)
        if len(calls) == fails_at[0]:
            raise StorageError(f"{self.name}: cannot be read (the line is dead)")
        return read(self, size)

    monkeypatch.setattr(storage._Object, "read", fail_then)
    decode_view(uri, view=VIEW)
    for moment in range(1, len(calls) + 1):
        calls.clear()
        fails_at[0] = moment
        with pytest.raises(StorageError, match="the line is dead"):
            decode_view(uri, view=VIEW)


def test_missing_package_is_reported_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(
        fsspec.registry.target if hasattr(fsspec.registry, "target") else {}, "gs", raising=False
    )
    with pytest.raises(StorageError, match=r"gs:// needs another package: pip install 'evclip-ray\[gcs\]'"):
        decode_view("gs://bucket/a.mp4", view=VIEW)


def test_unknown_kind_of_storage_is_reported():
    with pytest.raises(StorageError, match=r"s9://bucket/a.mp4: Protocol not known: s9; use s3://, gs://"):
        decode_view("s9://bucket/a.mp4", view=VIEW)
