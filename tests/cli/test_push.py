"""The command `push`."""

import fsspec
import pytest
from click.testing import CliRunner

from evclip_ray.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, debug_settings):
    """Write the files of a checkpoint whose tensors are never loaded."""
    import torch
    from safetensors.torch import save_file

    from evclip_ray.artifacts import write_json
    from evclip_ray.training.checksums import write_checksums
    from evclip_ray.training.experiment import ExperimentConfig

    folder = tmp_path_factory.mktemp("run") / "best"
    folder.mkdir()
    experiment = ExperimentConfig.load({"data": {"manifest": "/home/anna/videos.csv"}}, debug_settings)
    save_file({"prompt": torch.zeros(2)}, folder / "adapter.safetensors")
    record = {
        "experiment": experiment.model_dump(mode="json"),
        "classes": ["walk", "run"],
        "num_trainable": 2,
        "weights": {"clip": "random", "video_encoder": "random"},
    }
    write_json(folder / "config.json", record)
    write_checksums(folder, left_out=[])
    return folder


def run(*arguments):
    return CliRunner().invoke(main, ["push", *map(str, arguments)])


def test_plan_is_printed_before_the_upload(checkpoint, tmp_path):
    result = run(checkpoint, tmp_path / "shared", "--license", "apache-2.0", "--data-name", "UT")
    assert result.exit_code == 0, result.output
    assert f"{checkpoint} -> {tmp_path / 'shared'}" in result.output
    assert "adapter.safetensors" in result.output
    assert "without the places of files on this machine: data.manifest" in result.output
    assert "evclip-ray predict" in result.output
    assert "license: apache-2.0" in (tmp_path / "shared" / "README.md").read_text()
    again = run(checkpoint, tmp_path / "shared")
    assert "replaces the one there" in again.output


def test_dry_run_says_that_nothing_was_uploaded(checkpoint):
    result = run(checkpoint, "memory://dry/run", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "dry run: nothing was uploaded" in result.output
    assert not fsspec.filesystem("memory").find("/dry")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "memory://x"], "no such checkpoint folder"),
        (["{checkpoint}", "hf://user"], "must be hf://USER/NAME"),
        (["{checkpoint}", "memory://x", "--public"], "is for hf:// only"),
        (["{checkpoint}", "memory://x", "--export", "nothing.onnx"], "is not a file"),
        (["{checkpoint}", "gopher://x/y"], "use s3://, gs://"),
        (["{checkpoint}", "memory://x", "--evaluation", "nothing"], "must be a folder of"),
    ],
)
def test_mistakes_are_one_line(checkpoint, arguments, message):
    result = run(*(each.format(checkpoint=checkpoint) for each in arguments))
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
