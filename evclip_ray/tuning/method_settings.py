"""Fixed settings that only some of the searched methods have.

A space that searches `method.name` may fix `method.video_encoder.name`, which most methods lack. Such a
setting becomes a choice of one value with a condition:

    method.video_encoder.name: {choice: [swin3d_t], when: {method.name: [ev_clip]}}
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evclip_ray.config import ConfigError, flatten, override, paths
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.tuning.distributions import Distribution

_METHOD = "method.name"


def with_conditions(
    fixed: Mapping[str, Any], search: Iterable[Distribution]
) -> tuple[dict[str, Any], tuple[Distribution, ...]]:
    """Return the fixed and the searched settings, with conditions on settings that some methods lack.

    Settings that all searched methods have stay fixed. So do settings that none has, which the validation of
    the space refuses.

    Args:
        fixed: Nested settings that all trials share.
        search: Distributions of the searched settings, in order.
    """
    searched = tuple(search)
    position = next((k for k, distribution in enumerate(searched) if distribution.path == _METHOD), None)
    if position is None or searched[position].kind != "choice":
        return dict(fixed), searched
    names = searched[position].values
    known = {name: _paths_of(name) for name in names}
    # Copied: the caller's settings stay as they are.
    common = override(fixed, {})
    conditional: list[Distribution] = []
    for path, value in flatten(fixed).items():
        owners = [name for name in names if path in known[name]]
        if path.startswith("method.") and 0 < len(owners) < len(names):
            spec = {"choice": [value], "when": {_METHOD: owners}}
            conditional.append(Distribution.parse(path, spec))
            _remove(common, path.split("."))
    # Directly after the method, because conditions of later settings may refer to these.
    return common, (*searched[: position + 1], *conditional, *searched[position + 1 :])


def _remove(tree: dict[str, Any], keys: Sequence[str]) -> None:
    """Remove a setting, and the groups of settings that become empty."""
    first, *rest = keys
    if rest:
        _remove(tree[first], rest)
    if not rest or not tree[first]:
        del tree[first]


def _paths_of(name: Any) -> frozenset[str]:
    """Return the settings of experiments with a method; those of an unknown method are empty."""
    try:
        return frozenset(paths(ExperimentConfig, {"method": {"name": name}}))
    except ConfigError:
        return frozenset()
