"""Registry of the run that each actor trains at the moment, for `evclip-ray cluster status`.

Tune reuses one actor for many trials, and Ray's list of actors cannot show the name of the current one.
The names are stored in Ray's internal key-value store.
"""

from pathlib import Path

import ray

from evclip_ray.ray_internals import store_value, stored_value

_NAMESPACE = "evclip-ray"


def register_run(folder: Path | None) -> None:
    """Record that this actor trains the run in `folder`. None removes the record.

    Outside of an actor this does nothing.
    """
    # The key is the actor's id: it is the only name that Ray's list of actors shares with this process.
    actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    if actor is not None:
        store_value(actor, None if folder is None else _name(folder), namespace=_NAMESPACE)


def run_of(actor: str) -> str:
    """Return the name of the run that the actor with this id trains, or an empty text."""
    return stored_value(actor, namespace=_NAMESPACE) or ""


def _name(folder: Path) -> str:
    """Return "STUDY trial-0003" for a trial, and the folder's name for another run."""
    is_trial = folder.parent.name == "trials"
    return f"{folder.parents[1].name} {folder.name}" if is_trial else folder.name
