"""Damaged checkpoints of a run: it goes on from an earlier state, with the results of an undisturbed run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from evclip_ray.artifacts import ArtifactError
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import (
    ADAPTER,
    CONFIG,
    HISTORY,
    OPTIMIZER,
    load_adapter,
)
from evclip_ray.training.checksums import CHECKSUMS
from evclip_ray.training.loop import Run
from evclip_ray.training.per_video_scores import EPOCHS_FILE
from evclip_ray.training.saved_state import newest_state

DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\xff\x00garbage" * (path.stat().st_size // 9 + 1)),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
}
FILES = (ADAPTER, OPTIMIZER, CONFIG, HISTORY, EPOCHS_FILE, CHECKSUMS)


class Killed(BaseException):
    """End of the process."""


def start(experiment, videos, folder):
    method = build_method(experiment, videos.classes, device=torch.device("cpu"))
    return Run(experiment, videos, method, folder=folder)


@pytest.fixture(scope="module")
def experiment(make_experiment):
    return make_experiment(optim__epochs=4)


@pytest.fixture(scope="module")
def whole(experiment, tiny_videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    start(experiment, tiny_videos, folder).fit(lambda metrics: None)
    return folder


@pytest.fixture(scope="module")
def killed(experiment, tiny_videos, tmp_path_factory):
    """Return the folder of a run that was killed after three of four epochs."""

    def kill(metrics):
        if metrics.epoch == 3:
            raise Killed

    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        start(experiment, tiny_videos, folder).fit(kill)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damaged_checkpoint_is_replaced_by_the_one_before(killed, file, damage, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    DAMAGES[damage](folder / "last" / file)
    state, problems = newest_state(folder)
    # Without checksums, the files themselves are read, as those of an earlier version.
    is_whole = (file, damage) == (CHECKSUMS, "deleted")
    assert (state.history[-1].epoch, len(problems)) == ((3, 0) if is_whole else (2, 1))
    assert is_whole or str(folder / "last") in problems[0]


@pytest.mark.parametrize(
    ("damaged", "epochs"),
    [
        (["last"], [3, 4]),
        pytest.param(["last", ".last.old"], [1, 2, 3, 4], marks=pytest.mark.slow),
        pytest.param(["best"], [1, 2, 3, 4], marks=pytest.mark.slow),
    ],
)
def test_damaged_run_ends_as_an_undisturbed_one(
    experiment, tiny_videos, whole, killed, damaged, epochs, tmp_path, caplog
):
    folder = shutil.copytree(killed, tmp_path / "run")
    for name in damaged:
        DAMAGES["cut"](folder / name / ADAPTER)
    trained = []
    start(experiment, tiny_videos, folder).fit(lambda metrics: trained.append(metrics.epoch))
    assert trained == epochs
    action = "goes on after epoch 2" if epochs == [3, 4] else "starts again"
    assert f"the run {action}; the damaged files are in damaged" in caplog.text
    assert (folder / "damaged" / damaged[0] / ADAPTER).is_file()
    for name in ("best", "last"):
        expected, tensors = (load_file(path / name / ADAPTER) for path in (whole, folder))
        assert all(torch.equal(expected[key], tensors[key]) for key in expected)
    assert timeless(folder) == timeless(whole)
    # A run that has ended keeps one checkpoint to resume from.
    assert not (folder / ".last.old").exists()


def timeless(folder):
    lines = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    measured = ("seconds", "_share")
    return [{name: line[name] for name in line if not name.endswith(measured)} for line in lines]


def test_missing_checkpoints_are_named_and_the_run_starts_again(
    experiment, tiny_videos, killed, tmp_path, caplog
):
    folder = shutil.copytree(killed, tmp_path / "run")
    for name in ("last", ".last.old"):
        shutil.rmtree(folder / name)
    run = start(experiment, tiny_videos, folder)
    run.resume()
    assert run.history == []
    assert f"{folder / 'last'}: is missing: the run starts again" in caplog.text


def test_checkpoint_with_a_changed_tensor_is_not_loaded(experiment, tiny_videos, killed, tmp_path):
    best = shutil.copytree(killed / "best", tmp_path / "best")
    DAMAGES["one bit"](best / ADAPTER)
    with pytest.raises(ArtifactError, match=r"adapter\.safetensors: its content has changed"):
        load_adapter(best, start(experiment, tiny_videos, tmp_path).method)
