from evclip_ray.tuning.plan import frozen_variants
from evclip_ray.tuning.search_space import SearchSpace


def test_every_combination_that_changes_what_frozen_networks_give_is_listed(tiny_manifest, debug_settings):
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
