import zipfile
from pathlib import Path

import pytest

from evclip_ray.cluster.jobs.client import working_dir
from evclip_ray.cluster.jobs.working_dir import select_files
from evclip_ray.config import ConfigError


def write(root, *names, content="x"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_settings_and_lists_travel(tmp_path):
    write(tmp_path, "space.yaml", "lists/train.csv", "code/model.py")
    packed = select_files(tmp_path)
    assert {str(path) for path in packed.files} == {"space.yaml", "lists/train.csv", "code/model.py"}
    assert packed.size == 3


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".aws/credentials", ".ssh/id_rsa", "keys/server.pem", "id_ed25519", "hf_token",
        "my-secret.txt",
        "gcp_service_account.json", "kubeconfig.yaml", ".git/config", "videos/a.mp4", "frames.npy",
        "best.safetensors", "__pycache__/a.pyc",
    ],
)  # fmt: skip
def test_credentials_and_data_stay(tmp_path, name):
    write(tmp_path, "space.yaml", name)
    packed = select_files(tmp_path)
    assert packed.files == (Path("space.yaml"),)
    assert packed.left_behind


@pytest.mark.parametrize(
    "content",
    [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "aws_access_key_id = AKIA" + "ABCDEFGHIJKLMNOP",
        '{"api_key": "' + "a1b2c3d4e5" * 4 + '"}',
    ],
)
def test_a_file_that_holds_a_key_stays_whatever_its_name(tmp_path, content):
    write(tmp_path, "space.yaml")
    write(tmp_path, "notes.txt", content=content)
    packed = select_files(tmp_path)
    assert packed.files == (Path("space.yaml"),)
    assert packed.left_behind == {"holds something like a key": (Path("notes.txt"),)}
    with pytest.raises(
        ConfigError, match=r"notes\.txt: is named by the command but holds something like a key"
    ):
        select_files(tmp_path, named=[Path("notes.txt")])


def test_of_a_stages_folder_only_what_the_command_names_travels(tmp_path):
    write(
        tmp_path, "studies/mine/ledger.json", "studies/mine/best.yaml", "studies/mine/trials/0/history.jsonl"
    )
    assert select_files(tmp_path).files == ()
    named = select_files(tmp_path, named=[Path("studies/mine/best.yaml")])
    assert named.files == (Path("studies/mine/best.yaml"),)


def test_too_much_is_refused_and_the_largest_named(tmp_path, monkeypatch):
    monkeypatch.setattr(working_dir, "MOST_BYTES", 1000)
    write(tmp_path, "list.csv", content="x" * 900)
    write(tmp_path, "other.csv", content="x" * 200)
    with pytest.raises(ConfigError, match=r"too much to send.*the largest is list\.csv"):
        select_files(tmp_path)


def test_links_do_not_bring_what_is_elsewhere(tmp_path):
    write(tmp_path / "home", "passwd")
    write(tmp_path / "work", "space.yaml")
    (tmp_path / "work" / "list.csv").symlink_to(tmp_path / "home" / "passwd")
    assert select_files(tmp_path / "work").files == (Path("space.yaml"),)


def test_the_same_files_are_the_same_bytes(tmp_path):
    write(tmp_path / "work", "space.yaml", "a/b.csv")
    packed = select_files(tmp_path / "work")
    packed.write(tmp_path / "one.zip")
    (tmp_path / "work" / "space.yaml").touch()
    packed.write(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert set(archive.namelist()) == {"space.yaml", "a/b.csv"}
