"""Captions of scenes, and which caption is true of which picture.

A caption that names no shirt is true of every picture with its action. A contrastive loss that takes only the
caption of the same scene as its positive punishes a right answer, so `true_pairs` returns all true pairs.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evclip_ray.world.actions import ACTIONS, same_in_a_still
from evclip_ray.world.figure import CLOTHES, Look

CAPTION_FORMS = (
    "{action}",
    "a person {action}",
    "someone {action}",
    "a photo of a person {action}",
    "A video of {action}.",
    "a person in a {shirt} shirt {action}",
    "a person in {trousers} trousers {action}",
    "a person in a {shirt} shirt and {trousers} trousers {action}",
    "a photo of a person in a {shirt} shirt {action}",
)
"""Forms of a caption. "A video of {action}." is the default class template of the product."""

_COLOURS = tuple(CLOTHES)
# Actions that one frame cannot tell apart share a number.
_GROUPS = {
    name: min(list(ACTIONS).index(same) for same in same_in_a_still(name))
    for name in ACTIONS
}  # fmt: skip
_NOT_NAMED = -1


class Caption(str):
    """Text of a caption that knows its action and the colours that it names.

    Args:
        action: name of the action.
        shirt: colour of the shirt. None if the text does not name it.
        trousers: colour of the trousers. None if the text does not name it.
    """

    action: str
    shirt: str | None
    trousers: str | None

    def __new__(cls, text: str, action: str, shirt: str | None = None, trousers: str | None = None) -> Self:
        """Make a caption from its text and the attributes that it names."""
        caption = super().__new__(cls, text)
        caption.action, caption.shirt, caption.trousers = action, shirt, trousers
        return caption

    def __getnewargs__(self) -> tuple[str, str, str | None, str | None]:  # type: ignore[override]
        """Return the arguments of `__new__`, so that a caption can be pickled."""
        return (str(self), self.action, self.shirt, self.trousers)


def captions(action: str, look: Look, random: np.random.Generator) -> Caption:
    """Draw one of the `CAPTION_FORMS` for an action and a look."""
    return fill_form(CAPTION_FORMS[random.integers(len(CAPTION_FORMS))], action, look)


def fill_form(form: str, action: str, look: Look) -> Caption:
    """Return the caption of one form. The article follows the colour: "an orange shirt"."""
    if look.shirt[0] in "aeiou":
        form = form.replace("a {shirt}", "an {shirt}")
    return Caption(
        form.format(action=action, shirt=look.shirt, trousers=look.trousers),
        action,
        look.shirt if "{shirt}" in form else None,
        look.trousers if "{trousers}" in form else None,
    )


def vocabulary() -> tuple[str, ...]:
    """Return every lower-case word and sign of the captions, sorted."""
    words: set[str] = set()
    for form in (*CAPTION_FORMS, "an", *ACTIONS, *CLOTHES):
        plain = form.replace("{action}", " ").replace("{shirt}", " ").replace("{trousers}", " ")
        words.update(plain.lower().replace(".", " . ").split())
    return tuple(sorted(words))


def caption_is_true(caption: Caption, action: str, look: Look) -> bool:
    """Return whether a caption is true of one frame of this action by a figure with this look."""
    return (
        _GROUPS[caption.action] == _GROUPS[action]
        and caption.shirt in (None, look.shirt)
        and caption.trousers in (None, look.trousers)
    )


def caption_keys(texts: Sequence[Caption]) -> NDArray[np.int64]:
    """Return (N, 3) numbers of action, shirt and trousers. A colour that is not named is -1."""
    return np.array(
        [
            [
                _GROUPS[text.action],
                _NOT_NAMED if text.shirt is None else _COLOURS.index(text.shirt),
                _NOT_NAMED if text.trousers is None else _COLOURS.index(text.trousers),
            ]
            for text in texts
        ],
        dtype=np.int64,
    ).reshape(-1, 3)


def scene_keys(actions: Sequence[str], looks: Sequence[Look]) -> NDArray[np.int64]:
    """Return (N, 3) numbers of action, shirt and trousers of scenes."""
    return np.array(
        [
            [_GROUPS[action], _COLOURS.index(look.shirt), _COLOURS.index(look.trousers)]
            for action, look in zip(actions, looks, strict=True)
        ],
        dtype=np.int64,
    ).reshape(-1, 3)


def true_pairs(scenes: Any, texts: Any) -> Any:
    """Return which captions are true of which frames.

    Args:
        scenes: (N, 3) array or tensor from `scene_keys`.
        texts: (M, 3) array or tensor from `caption_keys`.

    Returns:
        (N, M) Boolean array or tensor.
    """
    scenes, texts = scenes[:, None], texts[None]
    return ((scenes == texts) | (texts == _NOT_NAMED)).all(-1)
