"""Checks that answer before PyTorch is imported."""

import json
import subprocess
import sys

import pytest

from evclip_ray.cli.early_checks import check_data, check_experiment, check_space
from evclip_ray.config import ConfigError


def test_experiment_as_a_space_names_train(tmp_path):
    path = tmp_path / "best.yaml"
    path.write_text("data: {manifest: x.csv}\noptim: {lr: 1e-3}\n")
    with pytest.raises(ConfigError, match=r"is an experiment, not a search space\..*evclip-ray train"):
        check_space(str(path))
    check_experiment(path)


def test_space_as_an_experiment_names_tune(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("fixed: {backbone.name: debug}\nsearch: {optim.lr: {loguniform: [1e-4, 1e-2]}}\n")
    with pytest.raises(ConfigError, match=r"is a search space, not an experiment\..*evclip-ray tune"):
        check_experiment(path)
    assert check_space(str(path)) == path


def test_dotted_settings_are_an_experiment(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim.lr: 1e-3\n")
    check_experiment(path)
    with pytest.raises(ConfigError, match="is an experiment"):
        check_space(str(path))


def test_missing_list_is_named():
    with pytest.raises(ConfigError, match=r"nothere\.csv: no such manifest"):
        check_data("nothere.csv")
    check_data(None)
    check_data("s3://bucket/list.csv")


MISTAKES = {
    "tune quickstrt": "did you mean 'quickstart'?",
    "tune quickstart --data nothere.csv": "nothere.csv: no such manifest",
    "tune quickstart --set optim.lrr=1": "optim.lrr: unknown setting; did you mean 'optim.lr'?",
    "tune quickstart --set method.mask.depth=-1": "method.mask.depth: must be at least 0, got -1",
    "tune quickstart --trials 0": "study.trials: must be at least 1, got 0",
    "tune quickstart --set study.trials=3": "study.trials: is a setting of the search",
    "scale debug_ladder --data nothere.csv": "nothere.csv: no such manifest",
    "scale debug_ladder --data list.csv": "list.csv: column 'path' is missing",
    "train nothere.yaml": "nothere.yaml: cannot be read",
    "train mine.yaml --set optim.lr=abc": "optim.lr: must be a number, got 'abc'",
    "train wrong.yaml": "method.mask.deph: unknown setting; did you mean 'method.mask.depth'?",
    "train mine.yaml": "list.csv: column 'path' is missing",
    "evaluate best --split tset": "'tset' is not one of 'train', 'val', 'test'",
    "evaluate best --set backbone.name=ViT-B-61": "'ViT-B-61' is unknown; did you mean 'ViT-B-16'?",
    "evaluate bset": "bset: no such checkpoint folder; did you mean best?",
    "evaluate best --protocol zeroshot": "protocol 'zeroshot' is unknown; did you mean 'zero_shot'?",
    "import-checkpoint nothere.pth --out x": "nothere.pth: no such model file",
    "report mien.yaml": "mien.yaml: no such study or ladder; did you mean mine.yaml?",
    "push bset ./there": "bset: no such checkpoint folder; did you mean best?",
    "serve bset": "bset: no such checkpoint folder; did you mean",
    "evaluate best": "list.csv: column 'path' is missing",
    "export best --out x.onnx --set method.video_encoder.name=swin": "did you mean 'swin3d_t'?",
    "cost ev_clp": "did you mean 'ev_clip'?",
    "settings optim.lrr": "did you mean 'optim.lr'?",
}
"""Command with a mistake -> part of its answer."""
COMMANDS = """
import json, sys
from evclip_ray.cli import main
answers = {}
for command in json.loads(sys.argv[1]):
    try:
        main(command.split(), standalone_mode=False)
    except Exception as error:
        answers[command] = getattr(error, "message", repr(error))
print(json.dumps([answers, "torch" in sys.modules, "ray" in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "list.csv").write_text("a,b\n1,2\n")
    (folder / "mine.yaml").write_text("data.manifest: list.csv\n")
    (folder / "wrong.yaml").write_text("data.manifest: list.csv\nmethod: {mask: {deph: 1}}\n")
    (folder / "best").mkdir()
    (folder / "best" / "adapter.safetensors").write_bytes(b"")
    (folder / "best" / "config.json").write_text('{"experiment": {"data": {"manifest": "list.csv"}}}')
    # One process for all: each start takes half a second.
    words = [sys.executable, "-c", COMMANDS, json.dumps(list(MISTAKES))]
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("command", MISTAKES)
def test_mistake_is_answered_without_pytorch(answers, command):
    said, has_torch, has_ray = answers
    assert MISTAKES[command] in said[command]
    assert "\n" not in said[command]
    assert not has_torch
    assert not has_ray
