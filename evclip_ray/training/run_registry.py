"""Registry of the run that each actor trains at the moment, and of what a run does before its first epoch.

Tune reuses one actor for many trials, and Ray's list of actors cannot show the name of the current one.
`evclip-ray cluster status` reads it here, and the command that runs a study reads the stages of its trials.
Both are stored in Ray's internal key-value store.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import ray

from evclip_ray.progress import reporting_to
from evclip_ray.ray_internals import store_value, stored_value

_NAMESPACE = "evclip-ray"
_FIRST_EPOCH = "training the first epoch"


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


@contextlib.contextmanager
def registered_stages(folder: Path) -> Iterator[None]:
    """Record what the run in `folder` does at the moment, such as "loading networks", see `stage_of`."""
    if not ray.is_initialized():
        yield
        return
    key, running = _stage_key(folder), [_FIRST_EPOCH]

    def note(name: str, done: int, total: int) -> None:
        if done < total:
            running.append(name)
        elif name in running:
            running.remove(name)
        # The innermost stage is the last one that began.
        store_value(key, running[-1], namespace=_NAMESPACE)

    try:
        with reporting_to(note):
            yield
    finally:
        store_value(key, None, namespace=_NAMESPACE)


def stage_of(folder: Path) -> str:
    """Return what the run in `folder` does at the moment, empty if its process has not begun."""
    return stored_value(_stage_key(folder), namespace=_NAMESPACE) or ""


def _stage_key(folder: Path) -> str:
    return f"stage {folder}"


def _name(folder: Path) -> str:
    """Return "STUDY trial-0003" for a trial, and the folder's name for another run."""
    is_trial = folder.parent.name == "trials"
    return f"{folder.parents[1].name} {folder.name}" if is_trial else folder.name
