import pytest
import yaml

from evclip_ray.config import ConfigError
from evclip_ray.scaling.ladder_steps import Ladder, parse_over
from evclip_ray.tuning.space_files import shipped_spaces

SPACE = {
    "fixed": {
        "data.manifest": "none",
        "backbone.name": "debug",
        "backbone.pretrained": "random",
        "method.name": "ev_clip",
    },
    "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
    "study": {"trials": 4},
}


@pytest.fixture
def space(tmp_path):
    def write(**sections):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**SPACE, **sections}, sort_keys=False))
        return path

    return write


def test_step_is_the_space_with_one_setting_changed(space):
    ladder = Ladder.read(space(), over={"backbone.name": ["debug", "open_clip:ViT-B-16"]})
    assert [step.name for step in ladder.steps] == ["debug", "open_clip-ViT-B-16"]
    assert [step.space.experiment().backbone.name for step in ladder.steps] == ["debug", "open_clip:ViT-B-16"]
    assert ladder.over == "backbone.name"


@pytest.mark.parametrize(
    ("path", "values", "names"),
    [
        ("data.shots", [2, 4, None], ["shots-2", "shots-4", "shots-None"]),
        ("view.num_frames", [4, 8], ["num_frames-4", "num_frames-8"]),
        ("method.prompts", ["mask", "context"], ["prompts-mask", "prompts-context"]),
        ("method.name", ["ev_clip", "ez_clip"], ["name-ev_clip", "name-ez_clip"]),
    ],
)
def test_ladder_may_vary_any_path(space, path, values, names):
    assert [step.name for step in Ladder.read(space(), over={path: values}).steps] == names


def test_setting_of_the_ladder_is_not_searched(space):
    ladder = Ladder.read(space(), over={"optim.lr": [0.1, 0.2]})
    assert [step.space.search for step in ladder.steps] == [(), ()]
    assert [step.space.experiment().optim.lr for step in ladder.steps] == [0.1, 0.2]


def test_command_line_steps_replace_those_of_the_yaml(space):
    path = space(ladder={"over": "data.shots", "rungs": [1, 2]})
    assert [step.settings for step in Ladder.read(path).steps] == [{"data.shots": 1}, {"data.shots": 2}]
    replaced = Ladder.read(path, over={"optim.epochs": [3]})
    assert [step.settings for step in replaced.steps] == [{"optim.epochs": 3}]


def test_shared_points_are_kept_with_other_steps(space):
    path = space(ladder={"rungs": ["debug"], "share_points": 2})
    assert Ladder.read(path).share_points == 2
    assert Ladder.read(path, over={"optim.epochs": [3]}).share_points == 2
    assert Ladder.read(path, share_points=0).share_points == 0
    alone = Ladder.read(space(), over={"data.shots": [1]})
    assert (alone.share_points, alone.identity()) == (
        0,
        Ladder.read(space(), over={"data.shots": [1]}, share_points=1).identity(),
    )
    with pytest.raises(ConfigError, match=r"ladder\.share_points: must be a whole number from 0, got -1"):
        Ladder.read(space(ladder={"rungs": ["debug"], "share_points": -1}))


def test_step_may_be_several_settings(space):
    steps = {"small": {"data.shots": 1}, "large": {"data.shots": 8, "optim": {"epochs": 9}}}
    ladder = Ladder.read(space(ladder={"rungs": steps}))
    assert ladder.over is None
    assert ladder.steps[1].settings == {"data.shots": 8, "optim.epochs": 9}
    assert ladder.steps[1].space.experiment().optim.epochs == 9


def test_budget_and_added_steps_keep_the_ladder_identity(space):
    first = Ladder.read(space(), over={"data.shots": [1, 2]})
    more = Ladder.read(space(), over={"data.shots": [1, 2, 4]}, study={"trials": 9})
    other = Ladder.read(space(), {"optim.epochs": 7}, over={"data.shots": [1, 2]})
    assert first.identity() == more.identity() != other.identity()


@pytest.mark.parametrize(
    ("sections", "over", "expected"),
    [
        (
            {},
            {"optim.lrr": [1, 2]},
            "step lrr-1: optim.lrr: unknown setting; did you mean 'optim.lr'",
        ),
        ({}, {"backbone.name": ["debug", "debug"]}, "the step 'debug' is listed twice"),
        ({}, {"backbone.name": ["ViT-B-61"]}, "did you mean 'ViT-B-16'"),
        ({}, {"view.num_frames": [8, 7]}, "step num_frames-7: view.num_frames must be even"),
        ({}, {"method.name": ["zero_shot"]}, "step name-zero_shot: method 'zero_shot' has nothing to train"),
        ({}, {"backbone.name": []}, "needs at least one step"),
        ({}, {"seed": [1], "data.shots": [2]}, "climbs along one path, got seed, data.shots"),
        ({}, None, "no `ladder` section; give --ladder"),
        ({"ladder": {"ovr": "seed"}}, None, "unknown key 'ovr'; did you mean 'over'"),
        ({"ladder": ["debug"]}, None, "ladder: unknown key"),
        ({"ladder": {"rungs": 3}}, None, "must be a list of values"),
        ({"ladder": {"rungs": {}}}, None, "needs `rungs`"),
        ({"ladder": {"rungs": {"a b": {"seed": 1}, "a/b": {"seed": 2}}}}, None, "names of steps must differ"),
    ],
)
def test_invalid_ladder_is_refused_before_the_first_step(space, sections, over, expected):
    with pytest.raises(ConfigError) as refused:
        Ladder.read(space(**sections), over=over)
    assert expected in str(refused.value)


def test_values_on_the_command_line_are_read_as_yaml():
    assert parse_over("data.shots=2, 4,null") == {"data.shots": [2, 4, None]}
    for text in ("data.shots", "data.shots=", "=1,2"):
        with pytest.raises(ConfigError, match="--over needs PATH=VALUE"):
            parse_over(text)


def test_shipped_ladder_has_three_growing_backbones():
    ladder = Ladder.read(shipped_spaces()["debug_ladder"], {"data.manifest": "none"})
    assert [step.name for step in ladder.steps] == ["debug_small", "debug", "debug_large"]
