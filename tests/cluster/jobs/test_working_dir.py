import zipfile
from pathlib import Path

import pytest

from evclip_ray.cluster.jobs import working_dir
from evclip_ray.cluster.jobs.working_dir import select_files
from evclip_ray.config import ConfigError


def write(root, *names, content="x"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_settings_and_lists_are_sent(tmp_path):
    write(tmp_path, "space.yaml", "lists/train.csv", "code/model.py")
    selection = select_files(tmp_path)
    assert {str(path) for path in selection.files} == {"space.yaml", "lists/train.csv", "code/model.py"}
    assert selection.size == 3


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".aws/credentials",
        ".ssh/id_rsa",
        "keys/server.pem",
        "id_ed25519",
        "hf_token",
        "my-secret.txt",
        "gcp_service_account.json",
        "kubeconfig.yaml",
        ".git/config",
        "videos/a.mp4",
        "frames.npy",
        "best.safetensors",
        "__pycache__/a.pyc",
    ],
)
def test_credentials_and_data_are_not_sent(tmp_path, name):
    write(tmp_path, "space.yaml", name)
    selection = select_files(tmp_path)
    assert selection.files == (Path("space.yaml"),)
    assert selection.excluded


@pytest.mark.parametrize(
    "content",
    [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "aws_access_key_id = AKIA" + "ABCDEFGHIJKLMNOP",
        '{"api_key": "' + "a1b2c3d4e5" * 4 + '"}',
    ],
)
def test_file_that_contains_a_key_is_not_sent(tmp_path, content):
    write(tmp_path, "space.yaml")
    write(tmp_path, "notes.txt", content=content)
    selection = select_files(tmp_path)
    assert selection.files == (Path("space.yaml"),)
    assert selection.excluded == {"contains what looks like a key": (Path("notes.txt"),)}
    with pytest.raises(
        ConfigError, match=r"notes\.txt: is named by the command but contains what looks like a key"
    ):
        select_files(tmp_path, named=[Path("notes.txt")])


def test_stage_output_is_sent_only_if_named(tmp_path):
    write(
        tmp_path, "studies/mine/ledger.json", "studies/mine/best.yaml", "studies/mine/trials/0/history.jsonl"
    )
    assert select_files(tmp_path).files == ()
    named = select_files(tmp_path, named=[Path("studies/mine/best.yaml")])
    assert named.files == (Path("studies/mine/best.yaml"),)


def test_too_large_selection_names_the_largest_file(tmp_path, monkeypatch):
    monkeypatch.setattr(working_dir, "MAX_BYTES", 1000)
    write(tmp_path, "list.csv", content="x" * 900)
    write(tmp_path, "other.csv", content="x" * 200)
    with pytest.raises(ConfigError, match=r"too large to send.*the largest is list\.csv"):
        select_files(tmp_path)


def test_links_to_other_folders_are_not_followed(tmp_path):
    write(tmp_path / "home", "passwd")
    write(tmp_path / "work", "space.yaml")
    (tmp_path / "work" / "list.csv").symlink_to(tmp_path / "home" / "passwd")
    assert select_files(tmp_path / "work").files == (Path("space.yaml"),)


def test_same_files_give_the_same_archive(tmp_path):
    write(tmp_path / "work", "space.yaml", "a/b.csv")
    selection = select_files(tmp_path / "work")
    selection.write(tmp_path / "one.zip")
    (tmp_path / "work" / "space.yaml").touch()
    selection.write(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert set(archive.namelist()) == {"space.yaml", "a/b.csv"}
