"""Studies over the tiny videos."""

import pytest

SEARCH = {"optim.lr": {"loguniform": [1e-3, 1e-2]}, "method.prompts": {"choice": ["both", "context"]}}


@pytest.fixture(scope="session")
def study(tiny_manifest, tiny_cache, tiny_videos, local_ray, debug_settings):
    """Return a factory of studies over the tiny videos.

    `call` are arguments of `StudyRun`, other options go into the section `study`.
    """
    from evclip_ray.tuning.search_space import SearchSpace
    from evclip_ray.tuning.tuner import StudyRun

    def make(root, *, search=SEARCH, fixed=None, call=None, **options):
        data = {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, **(fixed or {})},
            "search": search,
            "study": {"memory_gb": 0.5, **options},
        }
        return StudyRun(SearchSpace.load("tiny", data), root, **{"cache": tiny_cache, **(call or {})})

    return make
