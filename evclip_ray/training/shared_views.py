"""Views that several runs of a process are about to cut alike: cut once, and shared while one of them lasts.

The trials of a study have one seed, and with it one order of videos and the same crops; in a pack they
read the same batch in the same round.
"""

import dataclasses
import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


@dataclasses.dataclass(eq=False)
class Views:
    """`pixels` (B, T, 3, H, W), not to be changed; `state`: of the generator that drew them, afterwards."""

    pixels: Tensor
    state: Tensor | None


_IN_USE: weakref.WeakValueDictionary[Hashable, Views] = weakref.WeakValueDictionary()


def share_views(
    key: tuple[Hashable, ...], generator: torch.Generator | None, cut: Callable[[], Tensor]
) -> Views:
    """What `cut()` gives for `key` and the state of `generator`; whoever uses it holds on to it."""
    state = None if generator is None else generator.get_state().numpy().tobytes()
    views = _IN_USE.get((*key, state))
    if views is None:
        pixels = cut()
        views = Views(pixels, None if generator is None else generator.get_state())
        _IN_USE[(*key, state)] = views
    elif generator is not None and views.state is not None:
        generator.set_state(views.state)
    return views
