"""Registry of the run that each actor trains at the moment, for `evclip-ray cluster status`.

Tune reuses one actor for many trials, and Ray's list of actors cannot show the name of the current one.
The names are stored in Ray's internal key-value store.
"""

from pathlib import Path

import ray
from ray.experimental import internal_kv

_NAMESPACE = "evclip-ray"


def register_run(folder: Path | None) -> None:
    """Record that this actor trains the run in `folder`. None removes the record.

    Outside of an actor this does nothing.
    """
    actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    if actor is None:
        return
    if folder is None:
        internal_kv._internal_kv_del(actor, namespace=_NAMESPACE)
    else:
        internal_kv._internal_kv_put(actor, _name(folder), namespace=_NAMESPACE)


def run_of(actor: str) -> str:
    """Return the name of the run that the actor with this id trains, or an empty text."""
    return (internal_kv._internal_kv_get(actor, namespace=_NAMESPACE) or b"").decode()


def _name(folder: Path) -> str:
    """Return "STUDY trial-0003" for a trial, and the folder's name for another run."""
    is_trial = folder.parent.name == "trials"
    return f"{folder.parents[1].name} {folder.name}" if is_trial else folder.name
