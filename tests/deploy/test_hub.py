"""Sharing of checkpoints: on a server of Hugging Face's endpoints, in memory, and in local folders."""

import json
import logging
import shutil
import socket

import fsspec
import huggingface_hub
import pytest
from fake_hub import TOKEN, FakeHub

from evclip_ray.artifacts import ArtifactError, read_json, write_json
from evclip_ray.config import ConfigError
from evclip_ray.data.storage import StorageError
from evclip_ray.deploy import digests, hub
from evclip_ray.training.checkpoint import read_record
from evclip_ray.training.checksums import DamagedFile

HF = "hf://user/waving"
MEMORY = "memory://models/waving"


@pytest.fixture(autouse=True)
def _empty_memory():
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVCLIP_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def server():
    fake = FakeHub()
    yield fake
    fake.close()


def set_endpoint(monkeypatch, endpoint):
    # The library reads HF_ENDPOINT at its import.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def online(server, monkeypatch, cache):
    """Point Hugging Face's library at the server, with a token that may write."""
    server.repositories.clear()
    server.requests.clear()
    set_endpoint(monkeypatch, server.endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


@pytest.fixture
def s3(monkeypatch):
    """Start an S3 server with one bucket and set the environment to find it."""
    server = pytest.importorskip("moto.server", reason="needs moto[server], a local server of S3's protocol")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    host, port = s3.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.mkdir("models")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    s3.stop()


@pytest.fixture
def mine(checkpoint, tmp_path):
    """Return a copy of the checkpoint that a test may change."""
    return shutil.copytree(checkpoint, tmp_path / "mine" / "best")


def other(checkpoint, folder):
    """Write a checkpoint with other trained tensors."""
    from safetensors.torch import load_file, save_file

    from evclip_ray.training.checksums import write_checksums

    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "adapter.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, folder / "adapter.safetensors")
    write_checksums(folder, left_out=[])
    return folder


def memory_file(name):
    return fsspec.filesystem("memory").open(f"/models/waving/{name}", "wb")


# ---- any storage


def test_pushed_checkpoint_is_loaded_from_its_address(checkpoint, cache):
    hub.push(checkpoint, MEMORY)
    folder = hub.resolve(MEMORY)
    assert folder.is_relative_to(cache / "checkpoints")
    assert read_record(folder)["classes"] == read_record(checkpoint)["classes"]
    assert (folder / "adapter.safetensors").read_bytes() == (checkpoint / "adapter.safetensors").read_bytes()
    assert not (folder / "README.md").exists()


def test_recognizer_of_an_address_gives_the_same_logits(checkpoint, videos, cache):
    from evclip_ray.deploy.recognizer import Recognizer

    hub.push(checkpoint, MEMORY)
    here, there = Recognizer.load(checkpoint), Recognizer.load(MEMORY)
    frames = [here.decode(videos[0])]
    assert (here.logits(frames) == there.logits(frames)).all()


def test_digests_are_uploaded_last(checkpoint, tmp_path, monkeypatch):
    order = []
    put = fsspec.filesystem("memory").put_file
    monkeypatch.setattr(
        type(fsspec.filesystem("memory")), "put_file", lambda self, a, b: (order.append(b), put(a, b))
    )
    hub.push(checkpoint, MEMORY)
    assert order[-1].endswith("digests.json")
    assert len(order) == 5


def test_cut_upload_is_refused_on_load(checkpoint, cache):
    hub.push(checkpoint, MEMORY)
    fsspec.filesystem("memory").rm("/models/waving/digests.json")
    with pytest.raises(ArtifactError, match=r"has no digests\.json.*upload was cut"):
        hub.resolve(MEMORY)
    hub.push(checkpoint, MEMORY, force=True)
    fsspec.filesystem("memory").rm("/models/waving/config.json")
    with pytest.raises(DamagedFile, match=r"waving/config\.json: is missing"):
        hub.resolve(MEMORY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "must have [0-9,]+ bytes, got"),
        (lambda content: content + b"0", "more than the expected"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "content is not the one"),
    ],
    ids=["cut", "longer", "changed"],
)
def test_damaged_file_at_the_source_is_refused_by_name(checkpoint, cache, change, message):
    hub.push(checkpoint, MEMORY)
    content = fsspec.filesystem("memory").cat_file("/models/waving/adapter.safetensors")
    with memory_file("adapter.safetensors") as stream:
        stream.write(change(content))
    with pytest.raises(DamagedFile, match=rf"adapter\.safetensors: .*{message}"):
        hub.resolve(MEMORY)
    assert not list(cache.glob("checkpoints/*/*/adapter.safetensors"))


def test_damaged_file_in_the_cache_is_refused(checkpoint, cache):
    hub.push(checkpoint, MEMORY)
    config = hub.resolve(MEMORY) / "config.json"
    config.write_text(config.read_text().replace("walk", "talk"))
    with pytest.raises(DamagedFile, match=r"config\.json: its content.*Remove this folder"):
        hub.resolve(MEMORY)


@pytest.mark.parametrize("name", ["../../evil.py", "/etc/passwd", "a/../../b", "..", "exports/../../x"])
def test_names_that_lead_out_of_the_folder_are_refused(checkpoint, cache, name):
    hub.push(checkpoint, MEMORY)
    listed = json.loads(fsspec.filesystem("memory").cat_file("/models/waving/digests.json"))
    listed["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    with memory_file("digests.json") as stream:
        stream.write(json.dumps(listed).encode())
    with pytest.raises(ArtifactError, match="do not trust this source"):
        hub.resolve(MEMORY)


def test_checkpoints_above_the_limit_are_refused_with_it(checkpoint, cache, monkeypatch):
    hub.push(checkpoint, MEMORY)
    monkeypatch.setattr(digests, "MAX_BYTES", 1000)
    with pytest.raises(ArtifactError, match=r"limit of 0\.0 MiB"):
        hub.resolve(MEMORY)


def test_unknown_files_are_not_downloaded(checkpoint, cache, tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"onnx")
    (tmp_path / "model.onnx.json").write_text("{}")
    (tmp_path / "model.onnx.parity.json").write_text('{"video": "/home/anna/1.mp4"}')
    hub.push(checkpoint, MEMORY, exports=[model])
    with memory_file("evil.pkl") as stream:
        stream.write(b"code")
    names = {path.name for path in hub.resolve(MEMORY).iterdir()}
    assert names == {"adapter.safetensors", "checksums.json", "config.json", "digests.json"}
    exported = fsspec.filesystem("memory").find("/models/waving/exports")
    assert [path.rpartition("/")[2] for path in exported] == ["model.onnx", "model.onnx.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1, "files": {"a": 1}}', b"\xff\xfe"])
def test_damaged_list_of_digests_is_refused(checkpoint, cache, content):
    hub.push(checkpoint, MEMORY)
    with memory_file("digests.json") as stream:
        stream.write(content)
    with pytest.raises(DamagedFile, match=r"digests\.json: is not a list of digests"):
        hub.resolve(MEMORY)


def test_another_checkpoint_at_the_target_needs_force(checkpoint, tmp_path, cache):
    hub.push(checkpoint, MEMORY)
    hub.push(checkpoint, MEMORY)  # the same one again
    second = other(checkpoint, tmp_path / "second")
    with pytest.raises(ArtifactError, match=r"has another checkpoint.*--force"):
        hub.push(second, MEMORY)
    hub.push(second, MEMORY, force=True)
    assert digests.digest_of(hub.resolve(MEMORY) / "adapter.safetensors") == digests.digest_of(
        second / "adapter.safetensors"
    )


def test_other_files_at_the_target_need_force(checkpoint):
    with memory_file("model.bin") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"has other files \(model\.bin\)"):
        hub.push(checkpoint, MEMORY)


def test_files_of_an_earlier_push_are_removed(mine, tmp_path):
    from evclip_ray.metrics.calibration import Calibration

    target = tmp_path / "shared"
    Calibration(temperature=2.0, classes=tuple(read_record(mine)["classes"])).write(mine)
    hub.push(mine, target)
    (mine / "calibration.json").unlink()
    plan = hub.push(mine, target)
    assert plan.removed == ("calibration.json",)
    assert not (target / "calibration.json").exists()


def test_dry_run_uploads_nothing(checkpoint):
    plan = hub.push(checkpoint, MEMORY, dry_run=True)
    assert list(plan.files)[-1] == "digests.json"
    assert not fsspec.filesystem("memory").find("/models")


def test_last_version_is_used_while_the_storage_is_away(checkpoint, cache, monkeypatch, caplog):
    hub.push(checkpoint, MEMORY)
    folder = hub.resolve(MEMORY)

    def fail(self, *arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_open", fail)
    with caplog.at_level(logging.WARNING):
        assert hub.resolve(MEMORY) == folder
    assert "no route to host" in caplog.text
    with pytest.raises(StorageError, match="no route to host"):
        hub.resolve("memory://models/other")


def test_scheme_without_its_package_names_the_extra(checkpoint, cache, monkeypatch):
    def fail(uri, **options):
        raise ImportError("no module named gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(StorageError, match=r"pip install 'evclip-ray\[gcs\]'"):
        hub.resolve("gs://bucket/waving")
    with pytest.raises(StorageError, match=r"pip install 'evclip-ray\[gcs\]'"):
        hub.push(checkpoint, "gs://bucket/waving")


def test_unknown_scheme_is_reported(cache):
    with pytest.raises(StorageError, match="use s3://, gs://"):
        hub.resolve("gopher://host/waving")


@pytest.mark.slow
def test_checkpoint_in_s3_is_pushed_loaded_and_refused(checkpoint, cache, s3, tmp_path, monkeypatch):
    address = "s3://models/waving"
    hub.push(checkpoint, address)
    assert sorted(s3.ls("models/waving")) == [
        f"models/waving/{name}"
        for name in ("README.md", "adapter.safetensors", "checksums.json", "config.json", "digests.json")
    ]
    folder = hub.resolve(address)
    assert read_record(folder)["classes"] == read_record(checkpoint)["classes"]
    with pytest.raises(ArtifactError, match=r"has another checkpoint.*--force"):
        hub.push(other(checkpoint, tmp_path / "second"), address)
    s3.pipe("models/waving/config.json", b"{}")
    monkeypatch.setenv("EVCLIP_RAY_CACHE", str(tmp_path / "second cache"))
    with pytest.raises(DamagedFile, match=r"s3://models/waving/config\.json: must have"):
        hub.resolve(address)
    with pytest.raises((ArtifactError, StorageError, FileNotFoundError)) as raised:
        hub.push(checkpoint, "s3://no-such-bucket/waving")
    assert "s3://no-such-bucket/waving" in str(raised.value)
    with pytest.raises(ArtifactError, match="address is wrong"):
        hub.resolve("s3://no-such-bucket/waving")


# ---- local folders


def test_local_folders_are_checked_before_loading(mine):
    assert hub.resolve(mine) == mine
    adapter = mine / "adapter.safetensors"
    content = adapter.read_bytes()
    adapter.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedFile, match=r"adapter\.safetensors: its content has changed"):
        hub.resolve(mine)


def test_shared_local_folder_names_the_changed_file(checkpoint, tmp_path):
    hub.push(checkpoint, f"file://{tmp_path}/shared")
    hub.resolve(f"file://{tmp_path}/shared")
    config = tmp_path / "shared" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(DamagedFile, match=r"shared/config\.json: must have .* remove .*digests\.json"):
        hub.resolve(tmp_path / "shared")


def test_names_that_are_no_folder_get_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="give hf://user/waving"):
        hub.resolve("user/waving")
    with pytest.raises(ArtifactError, match="must be a checkpoint folder"):
        hub.push(tmp_path, MEMORY)


def test_target_must_not_be_the_checkpoint(mine):
    with pytest.raises(ConfigError, match="is the checkpoint itself"):
        hub.push(mine, mine)


# ---- privacy


@pytest.fixture
def private(mine, tmp_path, tiny_manifest):
    """Return a checkpoint with a record of videos, whose config names places of this machine."""
    from evclip_ray.data.manifest.manifest import read_manifest
    from evclip_ray.data.manifest.row_record import RowRecord

    config = read_json(mine / "config.json")
    config["classes"] = list(read_manifest(tiny_manifest).classes)
    data = config["experiment"]["data"]
    data |= {"manifest": str(tiny_manifest), "root": str(tiny_manifest.parent), "label_column": "label"}
    config["experiment"]["backbone"]["pretrained"] = "/home/anna/clip/weights.pt"
    config["source"] = {"file": "C:\\Users\\anna\\model.pth.tar", "sha256": "0" * 16}
    write_json(mine / "config.json", config)
    (mine / "checksums.json").unlink()
    manifest = read_manifest(tiny_manifest)
    rows = {split: manifest.in_split(split) for split in ("train", "val")}
    RowRecord.of(manifest, rows).write(mine / "rows.parquet")
    return mine


def test_shared_copy_names_no_place_of_this_machine(private, tmp_path, tiny_manifest):
    plan = hub.push(private, tmp_path / "shared")
    assert plan.needed_files == {"backbone.pretrained": "weights.pt"}
    assert {"data.manifest", "data.root", "data.label_column", "source.file"} < set(plan.hidden)
    for path in (tmp_path / "shared").iterdir():
        text = path.read_bytes().decode(errors="replace").replace("my.mp4", "")
        for place in (str(tiny_manifest.parent), "anna", str(tmp_path), ".mp4"):
            assert place not in text, f"{path.name} has {place}"


@pytest.mark.parametrize("rows", ["digests", "none", "paths"])
def test_record_of_rows_is_shared_as_asked(private, tmp_path, tiny_manifest, rows, caplog):
    from evclip_ray.data.manifest.manifest import ManifestError
    from evclip_ray.evaluation.plan import plan_evaluation

    hub.push(private, tmp_path / "shared", rows=rows)
    assert (tmp_path / "shared" / "rows.parquet").is_file() == (rows != "none")
    # A copy of the videos elsewhere is found too, because contents are compared.
    moved = shutil.copytree(tiny_manifest.parent, tmp_path / "moved") / tiny_manifest.name

    def plan(split, **overrides):
        return plan_evaluation(tmp_path / "shared", overrides, split=split, cache=tmp_path / "cache")

    given = {"data.manifest": str(moved), "backbone.pretrained": "random"}
    assert len(plan("test", **given).plans["test"].rows["test"]) == 6
    if rows == "none":
        assert "Overlap between these videos and the training videos is not checked" in caplog.text
    elif rows == "digests":
        with pytest.raises(ManifestError, match="were used for this checkpoint"):
            plan("train", **given)
        with pytest.raises(ManifestError, match="training videos, not shared"):
            plan("test", **{"backbone.pretrained": "random"})


# ---- Hugging Face


def test_push_creates_a_private_repository(checkpoint, online):
    plan = hub.push(checkpoint, HF)
    assert plan.access == "private, a new repository"
    assert online.repositories["user/waving"]["private"]
    assert len(online.repositories["user/waving"]["commits"]) == 2  # its creation and one commit
    card = online.files("user/waving")["README.md"].decode()
    assert 'Recognizer.load("hf://user/waving")' in card


def test_repository_is_loaded_once_per_version(checkpoint, online, tmp_path):
    hub.push(checkpoint, HF, public=True)
    assert not online.repositories["user/waving"]["private"]
    folder = hub.resolve(HF)
    assert not (folder / ".cache").exists()
    first = len(online.downloads())
    assert hub.resolve(HF) == folder
    assert [path.rpartition("/")[2] for path in online.downloads()[first:]] == ["digests.json"]
    hub.push(other(checkpoint, tmp_path / "second"), HF, force=True, public=True)
    assert hub.resolve(HF) != folder


def test_revision_is_loaded_without_a_connection(checkpoint, online, tmp_path):
    hub.push(checkpoint, HF)
    sha = online.repositories["user/waving"]["commits"][-1][0]
    hub.push(other(checkpoint, tmp_path / "second"), HF, force=True)
    folder = hub.resolve(f"{HF}@{sha}")
    assert digests.digest_of(folder / "adapter.safetensors") == digests.digest_of(
        checkpoint / "adapter.safetensors"
    )
    online.requests.clear()
    assert hub.resolve(f"{HF}@{sha}") == folder
    assert online.requests == []
    with pytest.raises(ArtifactError, match="has no revision 'v9'"):
        hub.resolve(f"{HF}@v9")


def test_push_to_a_public_repository_needs_public(checkpoint, online):
    online.add("user/waving", {".gitattributes": b""})
    with pytest.raises(ArtifactError, match=r"is public\. Add --public"):
        hub.push(checkpoint, HF)
    assert hub.push(checkpoint, HF, public=True).access == "public, an existing repository"


def test_private_and_missing_repositories_ask_for_a_token(checkpoint, online, monkeypatch):
    online.add("user/waving", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    for name in ("waving", "nothing"):
        with pytest.raises(ArtifactError, match=r"does not exist at .*HF_TOKEN") as raised:
            hub.resolve(f"hf://user/{name}")
        assert "\n" not in str(raised.value)


def test_gated_repository_names_its_page(online):
    online.add("user/waving", gated=True)
    with pytest.raises(ArtifactError, match=r"Request access on http://127\.0\.0\.1:\d+/user/waving"):
        hub.resolve(HF)


def test_push_without_the_right_to_write_is_refused(checkpoint, online, monkeypatch):
    online.add("user/waving", {".gitattributes": b""})
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(ArtifactError, match=r"access denied \(HTTP 403\).*write to"):
        hub.push(checkpoint, HF, public=True)


def test_listed_names_that_lead_out_are_refused(online):
    online.add("user/waving", {"digests.json": b"{}", "../../evil": b"x"})
    with pytest.raises(ArtifactError, match=r"lists the file '\.\./\.\./evil'"):
        hub.resolve(HF)
    assert online.downloads() == []


def test_unreachable_hub_is_one_line(checkpoint, cache, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    set_endpoint(monkeypatch, endpoint)
    for action in (lambda: hub.resolve(HF), lambda: hub.push(checkpoint, HF)):
        with pytest.raises(StorageError, match=rf"{endpoint} cannot be reached") as raised:
            action()
        assert "\n" not in str(raised.value)


def test_offline_mode_uses_the_cache(checkpoint, online, monkeypatch, caplog):
    hub.push(checkpoint, HF)
    folder = hub.resolve(HF)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve(HF) == folder
    assert "The copy in" in caplog.text
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        hub.resolve("hf://user/nothing")


@pytest.mark.parametrize(
    "uri", ["hf://", "hf://waving", "hf://datasets/user/x", "hf://user/x/sub", "hf://a/../b"]
)
def test_invalid_addresses_of_hugging_face_are_refused(uri, cache):
    with pytest.raises(ConfigError, match="must be hf://USER/NAME"):
        hub.resolve(uri)
