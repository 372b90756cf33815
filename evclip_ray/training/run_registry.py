"""Which run an actor trains at the moment, kept where whoever looks at the cluster finds it.

Tune gives one actor to many trials in turn, and what Ray lists of it has no room for their names.
"""

from pathlib import Path

import ray
from ray.experimental import internal_kv

_NAMESPACE = "evclip-ray"


def tell_run(folder: Path | None) -> None:
    """Record that this actor trains the run in `folder`, None for no run; do nothing outside of an actor."""
    actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    if actor is None:
        return
    if folder is None:
        internal_kv._internal_kv_del(actor, namespace=_NAMESPACE)
    else:
        internal_kv._internal_kv_put(actor, _name(folder), namespace=_NAMESPACE)


def run_of(actor: str) -> str:
    """Return the name of the run that an actor, given by its id, trains; empty if it recorded none."""
    return (internal_kv._internal_kv_get(actor, namespace=_NAMESPACE) or b"").decode()


def _name(folder: Path) -> str:
    """A trial by its study and number, another run by its folder."""
    is_trial = folder.parent.name == "trials"
    return f"{folder.parents[1].name} {folder.name}" if is_trial else folder.name
