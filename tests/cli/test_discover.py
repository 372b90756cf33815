import json

import pytest
from click.testing import CliRunner

from evclip_ray.cli.discover import settings_command, spaces_group
from evclip_ray.config import ConfigError
from evclip_ray.tuning.space_files import shipped_spaces


def run(command, *words):
    return CliRunner().invoke(command, [*map(str, words)], catch_exceptions=False)


def test_settings_as_json_have_all_fields():
    found = json.loads(run(settings_command, "optim.lr", "--json").stdout)
    assert found[0] == {
        "path": "optim.lr",
        "kind": "number > 0",
        "default": "0.0004",
        "description": "learning rate after the warm-up",
        "methods": [],
    }


def test_settings_of_another_method_are_left_out():
    text = run(settings_command, "method", "--method", "coop").stdout
    assert "method.num_vectors  (default: 16)  [coop]" in text
    assert "method.mask" not in text


def test_settings_of_a_method_without_the_prefix_are_refused():
    with pytest.raises(ConfigError, match=r"'coop' has none that starts with 'method\.mask'"):
        run(settings_command, "method.mask", "--method", "coop")


def test_spaces_are_listed_with_a_sentence():
    lines = run(spaces_group, "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_spaces())
    assert all(len(line.split()) > 3 for line in lines)


def test_space_is_shown_as_its_file():
    assert run(spaces_group, "show", "ev_clip").stdout == shipped_spaces()["ev_clip"].read_text()


def test_space_is_copied_once(tmp_path):
    target = tmp_path / "mine.yaml"
    assert "tune" in run(spaces_group, "cp", "ev_clip", target).stdout
    assert target.read_text() == shipped_spaces()["ev_clip"].read_text()
    with pytest.raises(ConfigError, match=r"exists already\. Give another name, or --force"):
        run(spaces_group, "cp", "ev_clip", target)
    target.write_text("changed")
    run(spaces_group, "cp", "ev_clip", target, "--force")
    assert target.read_text() != "changed"


def test_unknown_space_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'ev_clp' is not shipped.*ev_clip"):
        run(spaces_group, "show", "ev_clp")
