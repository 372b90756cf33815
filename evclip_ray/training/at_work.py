"""Which runs an actor trains at the moment, kept where whoever looks at the cluster finds it.

Tune gives one actor to many trials in turn, and what Ray lists of it has no room for their names.
"""

from collections.abc import Iterable
from pathlib import Path

import ray
from ray.experimental import internal_kv

_NAMESPACE = "evclip-ray"


def tell_runs(folders: Iterable[Path]) -> None:
    """Say that this actor trains the runs of these folders now; outside of an actor nothing is said."""
    actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    if actor is None:
        return
    if names := ", ".join(_name(folder) for folder in folders):
        internal_kv._internal_kv_put(actor, names, namespace=_NAMESPACE)
    else:
        internal_kv._internal_kv_del(actor, namespace=_NAMESPACE)


def runs_of(actor: str) -> str:
    """What an actor, by its id, said last; empty where it said nothing."""
    return (internal_kv._internal_kv_get(actor, namespace=_NAMESPACE) or b"").decode()


def _name(folder: Path) -> str:
    """A trial by its study and number, another run by its folder."""
    is_trial = folder.parent.name == "trials"
    return f"{folder.parents[1].name} {folder.name}" if is_trial else folder.name
