import subprocess
import sys

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.deploy.server import uploads
from evclip_ray.deploy.server.uploads import UploadFolder, remove_abandoned


def test_folder_is_removed_with_its_files(tmp_path):
    with UploadFolder(tmp_path) as folder, folder.new_file() as path:
        path.write_bytes(b"1")
        assert path.parent == folder.path
    assert not list(tmp_path.iterdir())


def test_file_is_removed_after_an_error(tmp_path):
    with UploadFolder(tmp_path) as folder:
        with pytest.raises(KeyError), folder.new_file() as path:
            raise KeyError
        assert not path.exists()


def test_start_removes_folders_of_killed_processes_only(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from evclip_ray.deploy.server.uploads import UploadFolder\n"
        "folder = UploadFolder(Path(sys.argv[1])); (folder.path / 'video-1').touch(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (abandoned,) = tmp_path.iterdir()
    with UploadFolder(tmp_path) as running:
        assert not abandoned.exists()
        remove_abandoned(tmp_path)
        assert running.path.is_dir()


def test_base_folder_is_of_this_user_only(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads.tempfile, "gettempdir", lambda: str(tmp_path))
    base = uploads.base_folder()
    assert base.stat().st_mode & 0o777 == 0o700
    base.chmod(0o755)
    with pytest.raises(ConfigError, match="only this user can enter"):
        uploads.base_folder()


def test_base_folder_is_no_link(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads.tempfile, "gettempdir", lambda: str(tmp_path))
    base = uploads.base_folder()
    base.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="only this user can enter"):
        uploads.base_folder()
