"""Variants of the frozen results of a search space: `frozen_variants` of tuning/plan.py."""

import itertools

import pytest

from evclip_ray.tuning.plan import frozen_variants
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.space_files import shipped_spaces

LISTED_BEFORE = ("data.", "view.", "backbone.", "precision", "method.name", "method.prompts", "method.mode")
"""Paths in the shipped spaces that change frozen results, as once listed by hand."""


def test_variants_list_all_settings_of_frozen_outputs(tiny_manifest, debug_settings):
    space = SearchSpace.load(
        "tiny",
        {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "data.bank": 2},
            "search": {
                "optim.lr": {"loguniform": [1e-3, 1e-2]},
                "method.prompts": {"choice": ["both", "context"]},
                "method.normalization": {
                    "choice": ["own", "imagenet"],
                    "when": {"method.prompts": ["context"]},
                },
                "method.mask.depth": {"int": [1, 2], "when": {"method.prompts": ["both"]}},
                "optim.batch_size": {"choice": [4, 8]},
            },
        },
    )
    assert frozen_variants(space) == [
        {"method.prompts": "both"},
        {"method.prompts": "context", "method.normalization": "own"},
        {"method.prompts": "context", "method.normalization": "imagenet"},
    ]


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_have_the_variants_listed_by_hand(name, tiny_manifest):
    path = shipped_spaces()[name]
    has_videos = "data.world" in path.read_text()
    space = read_space(path, None if has_videos else {"data.manifest": str(tiny_manifest)})
    axes = [axis for axis in space.search if axis.kind == "choice" and axis.path.startswith(LISTED_BEFORE)]
    assert not any(axis.when for axis in axes)
    expected = [
        dict(zip([axis.path for axis in axes], values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    if name in ("ez_clip", "quickstart"):
        # EZ-CLIP caches nothing, with prompts or without: the three variants by hand were one. The quickstart
        # draws new views in every epoch.
        assert frozen_variants(space) == [{}]
    else:
        assert frozen_variants(space) == expected


def test_setting_of_a_trained_part_is_no_variant(tiny_manifest, debug_settings):
    space = SearchSpace.load(
        "tiny",
        {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "data.bank": 2},
            "search": {"method.mask.mlp_ratio": {"choice": [2.0, 4.0]}, "seed": {"choice": [0, 1]}},
        },
    )
    assert frozen_variants(space) == [{}]
