"""evclip-ray: find the EV-CLIP prompts that work best on your own videos.

The public API is what this module lists in `__all__`, and the methods and attributes of these objects that
have no leading underscore. All other modules are private: they may change in any release.

Example::

    import evclip_ray

    study = evclip_ray.tune("quickstart", trials=8, out="studies/first")
    result = evclip_ray.evaluate(study.root / "best", split="test")
    predictions = list(evclip_ray.predict(study.root / "best", ["first.mp4", "second.mp4"]))

Names are imported when they are first used, so `import evclip_ray` loads neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evclip_ray.version import __version__

if TYPE_CHECKING:
    from evclip_ray.api import evaluate, predict, train, tune
    from evclip_ray.deploy.recognizer import Recognizer
    from evclip_ray.results import Ladder, Study
    from evclip_ray.training.experiment import ExperimentConfig
    from evclip_ray.tuning.search_space import SearchSpace

__all__ = [
    "ExperimentConfig",
    "Ladder",
    "Recognizer",
    "SearchSpace",
    "Study",
    "__version__",
    "evaluate",
    "predict",
    "train",
    "tune",
]

_MODULES = {
    "ExperimentConfig": "training.experiment",
    "Ladder": "results",
    "Recognizer": "deploy.recognizer",
    "SearchSpace": "tuning.search_space",
    "Study": "results",
    "evaluate": "api",
    "predict": "api",
    "train": "api",
    "tune": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Stored, so that the next access does not come here.
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
