import pytest

from evclip_ray.config import ConfigError
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.world.actions import ACTIONS, HELD_OUT, same_in_a_still
from evclip_ray.world.settings import WorldConfig


def world(**settings):
    return WorldConfig.load(settings)


def test_default_classes_differ_in_a_still():
    names = world().class_names()
    assert len(names) == 30
    assert set(names[:8]) == set(HELD_OUT)
    assert all(len(set(same_in_a_still(name)) & set(names)) == 1 for name in names)


def test_fewer_classes_are_a_prefix():
    assert world(classes=12).class_names() == world(classes=20).class_names()[:12]


def test_held_out_only_gives_the_eight_classes():
    assert set(world(held_out_only=True).class_names()) == set(HELD_OUT)


def test_temporal_classes_are_pairs():
    names = world(domain="temporal", classes=6).class_names()
    assert len(names) == 6
    assert {ACTIONS[name].reverse_of for name in names} == set(names)


def test_long_tail_keeps_the_number_of_training_videos():
    counts = world(domain="long_tail").train_counts()
    assert max(counts) > 60
    assert min(counts) == 1
    assert sum(counts) == pytest.approx(240, rel=0.06)
    assert set(world(domain="long_tail", dial=0).train_counts()) == {8}
    assert counts != world(domain="long_tail", seed=1).train_counts()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dial": 1.5}, r"data\.world\.dial: must be at most 1, got 1\.5"),
        ({"domain": "drak"}, r"data\.world\.domain: .*'drak'.*did you mean 'dark'"),
        ({"classes": 60}, "classes is 60.*has 41 classes; use at most 41"),
        ({"classes": 9, "held_out_only": True}, "classes is 9.*has 8 held-out classes; use at most 8"),
        ({"domain": "temporal", "held_out_only": True}, "has 0 held-out classes; set held_out_only to false"),
        ({"domain": "temporal", "classes": 5}, "pairs; use 6"),
        ({"size": 33}, r"data\.world\.size: .*multiple of 2, got 33"),
        ({"size": 16}, r"data\.world\.size: must be at least 32, got 16"),
        ({"dail": 1}, r"data\.world\.dail: unknown setting; did you mean 'data\.world\.dial'"),
    ],
)
def test_invalid_setting_names_path_value_and_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig.load({"data": {"world": settings}})


def test_world_leaves_no_trace_where_it_is_not_set():
    """Digests of earlier studies contain the dump of their data."""
    assert "world" not in ExperimentConfig.load({"data": {"manifest": "a.csv"}}).data.model_dump()


def test_two_sources_are_refused():
    with pytest.raises(ConfigError, match=r"got data\.manifest and data\.world"):
        ExperimentConfig.load({"data": {"manifest": "a.csv", "world": {}}})
