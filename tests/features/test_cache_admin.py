import pytest
import torch
from click.testing import CliRunner

from evclip_ray.artifacts import ArtifactError
from evclip_ray.cli import main
from evclip_ray.features.cache_admin import remove_entry
from evclip_ray.features.encode import TextJob, run_job
from evclip_ray.features.spec import class_text


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_cache_commands_list_verify_and_remove(tmp_path):
    spec = class_text("debug", "random")
    for word in ("one", "two"):
        run_job(TextJob(tmp_path / "features", spec, (word,)), torch.device("cpu"))
    listed = call("cache", "ls", "--cache", tmp_path)
    assert f"{spec.key}  class_text     debug (random, float32)" in listed.output
    assert "2 files" in listed.output
    assert call("cache", "verify", "--cache", tmp_path).output == "2 files, 0 damaged\n"
    path = next((tmp_path / "features").rglob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-20])
    verified = call("cache", "verify", "--cache", tmp_path)
    assert verified.exit_code == 1
    assert f"damaged  {path}" in verified.output
    refused = call("cache", "rm", "none", "--cache", tmp_path)
    assert refused.exit_code == 1
    assert "matches none; list the keys with `cache ls`" in refused.output
    assert spec.key in call("cache", "rm", spec.key[:6], "--cache", tmp_path).output
    assert call("cache", "ls", "--cache", tmp_path).output == ""
    with pytest.raises(ArtifactError, match="must begin the key"):
        remove_entry(tmp_path / "features", "")
