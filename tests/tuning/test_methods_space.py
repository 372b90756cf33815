"""Spaces that search the method, and settings that only some methods have."""

import collections

import pytest

import evclip_ray
from evclip_ray.config import ConfigError
from evclip_ray.tuning.plan import frozen_variants
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.space_files import find_space

FIXED = {"data.manifest": "videos.csv", "backbone.name": "debug", "backbone.pretrained": "random"}
SEARCH = {
    "method.name": {"choice": ["ev_clip", "ez_clip", "coop"], "balanced": True},
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
}
ENCODER = {"method.video_encoder.name": "swin3d_debug", "method.video_encoder.weights": "random"}


def space(**fixed):
    dotted = {path.replace("__", "."): value for path, value in fixed.items()}
    return SearchSpace.load("mine", {"fixed": {**FIXED, **dotted}, "search": SEARCH})


def point(method):
    return {"method.name": method, "optim.lr": 1e-3}


def test_fixed_setting_applies_to_the_methods_that_have_it():
    mine = SearchSpace.load("mine", {"fixed": FIXED, "search": SEARCH}, ENCODER)
    completed = mine.point_of({**point("ev_clip"), **ENCODER})
    assert completed == {**point("ev_clip"), **ENCODER}
    assert mine.experiment(completed).method.video_encoder.name == "swin3d_debug"
    for method in ("ez_clip", "coop"):
        assert mine.point_of({**point(method), **ENCODER}) == point(method)
    assert mine.replace({"method.name": "ev_clip"}).point_of({**point("ev_clip"), **ENCODER}).keys() == {
        "optim.lr",
        *ENCODER,
    }


def test_fixed_setting_of_all_methods_stays_fixed():
    mine = space(method__normalization="imagenet")
    assert mine.fixed["method"] == {"normalization": "imagenet"}
    assert [distribution.path for distribution in mine.search] == list(SEARCH)


def test_fixed_setting_that_no_method_has_is_refused():
    with pytest.raises(ConfigError, match=r"method.video_encodr: unknown setting; did you mean"):
        space(method__video_encodr__name="swin3d_debug")


def test_value_that_one_method_refuses_is_refused():
    with pytest.raises(ConfigError, match=r"ez_clip.*method.prompts: .*'both'"):
        space(method__prompts="both")


def test_frozen_results_use_the_settings_of_each_method():
    mine = space(**{path.replace(".", "__"): value for path, value in ENCODER.items()})
    variants = frozen_variants(mine)
    assert [variant["method.name"] for variant in variants] == ["ez_clip", "coop", "ev_clip"]
    assert variants[-1] == {"method.name": "ev_clip", **ENCODER}
    assert variants[-1].items() <= mine.first_point().items()


@pytest.mark.slow
def test_every_shipped_method_trains_equally_often(tmp_path, tiny_manifest, tiny_cache, local_ray):
    # As `evclip-ray tune methods --trials 18 --set ...` on tiny towers.
    small = {**FIXED, **ENCODER, "view.num_frames": 4, "view.height": 72, "view.width": 72, "optim.epochs": 1}
    overrides = {**small, "data.manifest": str(tiny_manifest)}
    limits = {"trials": 18, "memory_gb": 0.5}
    space = read_space(find_space("methods"), overrides, study=limits)
    study = evclip_ray.tune(
        "methods", overrides=overrides, study=limits, out=tmp_path / "study", cache=tiny_cache
    )
    rows = study.trials
    assert set(rows["state"]) == {"complete"}
    assert len(space.balanced.values) == 9
    assert collections.Counter(rows["method.name"]) == dict.fromkeys(space.balanced.values, 2)
    for method, rate in zip(rows["method.name"], rows["optim.lr"], strict=True):
        # `point_of` refuses a rate outside of the range of the method.
        assert space.point_of({"method.name": method, "optim.lr": rate, **ENCODER})["optim.lr"] == rate
