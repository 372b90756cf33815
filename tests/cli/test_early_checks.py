"""Checks that answer before PyTorch is imported."""

import os
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune", "quickstrt"], "did you mean 'quickstart'?"),
        (["tune", "quickstart", "--data", "nothere.csv"], "no such manifest"),
        (["train", "nothere.yaml"], "nothere.yaml"),
        (["scale", "debug_ladder", "--data", "nothere.csv"], "no such manifest"),
    ],
)
def test_typo_is_answered_without_pytorch(words, message, tmp_path):
    # A package without content in the place of PyTorch, whose import would fail the command.
    (tmp_path / "torch.py").write_text("raise SystemExit('PyTorch was imported')\n")
    code = "from evclip_ray.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "PyTorch was imported" not in ended.stderr
