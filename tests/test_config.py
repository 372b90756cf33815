from typing import Literal

import pytest
from pydantic import Field

from evclip_ray.config import Config, ConfigError, nearest_path, override, parse_assignments, paths, read_yaml


class Optim(Config):
    lr: float = Field(1e-3, gt=0)
    kind: Literal["adamw", "sgd"] = "adamw"


class Run(Config):
    optim: Optim = Optim()
    seed: int = 0


def test_an_override_sets_a_path_and_leaves_the_rest():
    tree = {"optim": {"lr": 1e-3, "kind": "sgd"}}
    assert override(tree, {"optim.lr": 0.1, "seed": 3}) == {"optim": {"lr": 0.1, "kind": "sgd"}, "seed": 3}
    assert tree == {"optim": {"lr": 1e-3, "kind": "sgd"}}


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"optim\.lr\.deep: optim\.lr is 0\.1"):
        override({"optim": {"lr": 0.1}}, {"optim.lr.deep": 1})


def test_an_unknown_path_names_the_nearest_valid_one():
    with pytest.raises(ConfigError, match=r"optim\.lrr: unknown setting; did you mean 'optim\.lr'"):
        Run.load({}, {"optim.lrr": 1})


def test_a_value_out_of_range_is_named_with_its_path():
    with pytest.raises(ConfigError, match=r"optim\.lr: must be greater than 0, got -1"):
        Run.load({}, {"optim.lr": -1})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("abc", "must be a number, got 'abc'"),
        (None, "must be a number, got None"),
        ("nan", "must be a finite number"),
    ],
)
def test_a_value_of_another_type_is_explained(value, fault):
    with pytest.raises(ConfigError, match=rf"^optim\.lr: {fault}"):
        Run.load({}, {"optim.lr": value})
    with pytest.raises(ConfigError, match=r"^seed: must be a whole number, got 2\.5$"):
        Run.load({}, {"seed": 2.5})
    with pytest.raises(ConfigError, match=r"^optim: must be a group of settings, got 3$"):
        Run.load({}, {"optim": 3})


def test_assignments_are_read_as_yaml_and_numbers_with_exponents_stay_numbers():
    parsed = parse_assignments(("optim.lr=3e-4", "seed=2", "optim.kind=sgd"))
    assert Run.load({}, parsed) == Run(optim=Optim(lr=3e-4, kind="sgd"), seed=2)


@pytest.mark.parametrize("text", ["optim.lr", "=3", ""])
def test_an_assignment_without_path_or_value_says_what_it_needs(text):
    with pytest.raises(ConfigError, match="PATH=VALUE"):
        parse_assignments((text,))


def test_paths_lists_every_leaf():
    assert set(paths(Run)) == {"optim.lr", "optim.kind", "seed"}


def test_paths_lists_an_optional_group_and_its_leaves():
    class Study(Config):
        run: Run | None = None

    assert set(paths(Study)) == {"run", "run.optim.lr", "run.optim.kind", "run.seed"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [1", "not valid YAML"), (b"- 1\n", "must hold a mapping"), (b"\xff\xfe", "UTF-8")],
)
def test_a_broken_yaml_file_is_named_with_the_reason(tmp_path, content, message):
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_a_missing_yaml_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\noptim: {lr: 1}\nseed: 2\n", "line 3: .*'seed' is given twice, first in line 1; keep one"),
        ("fixed:\n  seed: 1\nfixed:\n  seed: 1\n", "line 3: .*'fixed' is given twice, first in line 1"),
        ("search:\n  a.b: {x: 1}\n  a.b: {x: 2}\n", "line 3: .*'a.b' is given twice, first in line 2"),
        ("a: [{b: 1,\n b: 2}]\n", "line 2: .*'b' is given twice"),
        ("optim:\n  lr: 1\noptim.lr: 2\n", "line 3: .*'optim.lr' is given twice, first in line 2"),
    ],
)
def test_key_given_twice_is_refused_with_its_lines(tmp_path, content, message):
    path = tmp_path / "space.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_merge_key_and_spread_group_are_no_duplicates(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("base: &base {lr: 1, kind: sgd}\noptim: {<<: *base, lr: 2}\noptim.epochs: 3\n")
    assert read_yaml(path)["optim"] == {"lr": 2, "kind": "sgd"}


def test_assignment_with_a_key_given_twice_is_refused():
    with pytest.raises(ConfigError, match="'lr' is given twice"):
        parse_assignments(("optim={lr: 1, lr: 2}",))


def test_nearest_path_names_an_existing_sibling(tmp_path):
    (tmp_path / "studies" / "mine" / "best").mkdir(parents=True)
    meant = tmp_path / "studies" / "mine" / "best"
    assert nearest_path(tmp_path / "studies" / "mien" / "best") == f"; did you mean {meant}?"
    assert nearest_path(tmp_path / "studeis" / "mine" / "best") == f"; did you mean {meant}?"
    # The part that is near has no such folder in it.
    assert nearest_path(tmp_path / "studies" / "mien" / "last") == ""
    assert nearest_path(tmp_path / "videos.csv") == ""
