import pytest

from evclip_ray.config import ConfigError
from evclip_ray.tuning.packs import Packer, kind_of
from evclip_ray.tuning.search_space import SearchSpace


def space(**study):
    data = {
        "fixed": {"data.manifest": "videos.csv", "backbone.name": "debug", "backbone.pretrained": "random"},
        "search": {"backbone.name": {"choice": ["debug", "ViT-B-32"]}, "method.mask.depth": {"int": [1, 3]}},
        "study": study,
    }
    return SearchSpace.load("tiny", data)


def test_trials_of_one_kind_are_spread_over_the_packs():
    packer = Packer(["a", "b"], size=2)
    assert [packer.place(str(i), "ViT") for i in range(4)] == ["a", "b", "a", "b"]


def test_a_trial_joins_its_own_kind_while_there_is_a_place():
    packer = Packer(["a", "b"], size=2)
    assert packer.place("0", "ViT") == "a"
    assert packer.place("1", "ResNet") == "b"
    assert packer.place("2", "ResNet") == "b"
    assert packer.place("3", "ResNet") == "a", "its own kind's pack is full"


def test_a_place_that_is_given_back_is_filled_again():
    packer = Packer(["a", "b"], size=1)
    assert [packer.place("0", "ViT"), packer.place("1", "ViT")] == ["a", "b"]
    packer.free("0")
    assert packer.place("2", "ViT") == "a"


def test_trials_go_together_whose_frozen_networks_and_precision_are_the_same():
    small = kind_of(space(), {"backbone.name": "debug", "method.mask.depth": 1})
    assert small == kind_of(space(), {"backbone.name": "debug", "method.mask.depth": 3})
    assert small != kind_of(space(), {"backbone.name": "ViT-B-32", "method.mask.depth": 1})
    assert small != kind_of(space(), {"backbone.name": "debug", "precision": "bfloat16"})


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"pack": 0}, "pack: Input should be greater than or equal to 1, got 0"),
        ({"pack": 9, "trials": 8}, "pack must be at most the number of trials, 8; got 9"),
        ({"pack": 2, "trials": 8, "workers": 2}, "set workers or pack to 1, got pack 2"),
    ],
)
def test_a_pack_that_cannot_be_is_refused(study, message):
    with pytest.raises(ConfigError, match=message):
        space(**study)
