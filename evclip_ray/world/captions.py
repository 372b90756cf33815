"""Captions of scenes, and which caption is true of which picture.

A caption that names no shirt is true of every picture with its action. A contrastive loss that takes only the
caption of the same scene as its positive punishes a right answer, so `true_pairs` returns all true pairs.
"""

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evclip_ray.world.actions import ACTIONS, PARTS, same_in_a_still
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

HALF_FORMS = (
    "a person moving {part}",
    "A video of moving {part}.",
    "a person {motion} a limb",
    "A video of {motion} a limb.",
)
"""Forms that name half of an action of a limb. With them, an action that the pretraining never shows is
understood from its two halves."""

_COLOURS = tuple(CLOTHES)
# Actions that one frame cannot tell apart share a number.
_GROUPS = {
    name: min(list(ACTIONS).index(same) for same in same_in_a_still(name))
    for name in ACTIONS
}  # fmt: skip
_FIELD = re.compile(r"\{\w+\}")
_MOTIONS = tuple(dict.fromkeys(action.motion for action in ACTIONS.values()))
_PARTS = (None, *PARTS)
_MOTION_GROUPS = {
    action.motion: ACTIONS[list(ACTIONS)[_GROUPS[name]]].motion for name, action in ACTIONS.items()
}
_NOT_NAMED = -1


class Caption(str):
    """Text of a caption that knows which action, or half of one, and which colours it names.

    Args:
        action: name of the action. None if the text names only its motion or only its part.
        shirt: colour of the shirt. None if the text does not name it.
        trousers: colour of the trousers. None if the text does not name it.
        motion: motion, where the text names no action. None if the text does not name it.
        part: part of the body, likewise.
    """

    action: str | None
    shirt: str | None
    trousers: str | None
    motion: str | None
    part: str | None

    def __new__(
        cls,
        text: str,
        action: str | None,
        shirt: str | None = None,
        trousers: str | None = None,
        motion: str | None = None,
        part: str | None = None,
    ) -> Self:
        """Make a caption from its text and the attributes that it names."""
        caption = super().__new__(cls, text)
        caption.action, caption.shirt, caption.trousers = action, shirt, trousers
        caption.motion, caption.part = motion, part
        return caption

    def __getnewargs__(self) -> tuple[str | None, ...]:  # type: ignore[override]
        """Return the arguments of `__new__`, so that a caption can be pickled."""
        return (str(self), self.action, self.shirt, self.trousers, self.motion, self.part)


def forms_of(action: str) -> tuple[str, ...]:
    """Return the forms of an action's captions. An action of the whole body has no halves."""
    return (*CAPTION_FORMS, *HALF_FORMS) if ACTIONS[action].part else CAPTION_FORMS


def captions(action: str, look: Look, random: np.random.Generator) -> Caption:
    """Draw one of the forms of an action for an action and a look."""
    forms = forms_of(action)
    return fill_form(forms[random.integers(len(forms))], action, look)


def fill_form(form: str, action: str, look: Look) -> Caption:
    """Return the caption of one form. The article follows the colour: "an orange shirt"."""
    if look.shirt[0] in "aeiou":
        form = form.replace("a {shirt}", "an {shirt}")
    motion, part = ACTIONS[action].motion, ACTIONS[action].part
    named = action.removeprefix(motion).strip()
    return Caption(
        form.format(action=action, shirt=look.shirt, trousers=look.trousers, motion=motion, part=named),
        action if "{action}" in form else None,
        look.shirt if "{shirt}" in form else None,
        look.trousers if "{trousers}" in form else None,
        motion if "{motion}" in form else None,
        part if "{part}" in form else None,
    )


def vocabulary() -> tuple[str, ...]:
    """Return every lower-case word and sign of the captions, sorted."""
    words: set[str] = set()
    for form in (*CAPTION_FORMS, *HALF_FORMS, "an", *ACTIONS, *CLOTHES):
        words.update(_FIELD.sub(" ", form).lower().replace(".", " . ").split())
    return tuple(sorted(words))


def caption_is_true(caption: Caption, action: str, look: Look) -> bool:
    """Return whether a caption is true of one frame of this action by a figure with this look."""
    return bool(true_pairs(scene_keys([action], [look]), caption_keys([caption])).item())


def caption_keys(texts: Sequence[Caption]) -> NDArray[np.int64]:
    """Return (N, 5) numbers of action, shirt, trousers, motion and part. What is not named is -1."""
    return np.array(
        [
            [
                _NOT_NAMED if text.action is None else _GROUPS[text.action],
                _NOT_NAMED if text.shirt is None else _COLOURS.index(text.shirt),
                _NOT_NAMED if text.trousers is None else _COLOURS.index(text.trousers),
                _NOT_NAMED if text.motion is None else _MOTIONS.index(_MOTION_GROUPS[text.motion]),
                _NOT_NAMED if text.part is None else _PARTS.index(text.part),
            ]
            for text in texts
        ],
        dtype=np.int64,
    ).reshape(-1, 5)


def scene_keys(actions: Sequence[str], looks: Sequence[Look]) -> NDArray[np.int64]:
    """Return (N, 5) numbers of action, shirt, trousers, motion and part of scenes.

    Actions and motions that one frame cannot tell apart (raising and lowering) share a number. "The left
    arm" is not true of both arms.
    """
    return np.array(
        [
            [
                _GROUPS[action],
                _COLOURS.index(look.shirt),
                _COLOURS.index(look.trousers),
                _MOTIONS.index(_MOTION_GROUPS[ACTIONS[action].motion]),
                _PARTS.index(ACTIONS[action].part),
            ]
            for action, look in zip(actions, looks, strict=True)
        ],
        dtype=np.int64,
    ).reshape(-1, 5)


def true_pairs(scenes: Any, texts: Any) -> Any:
    """Return which captions are true of which frames.

    Args:
        scenes: (N, 5) array or tensor from `scene_keys`.
        texts: (M, 5) array or tensor from `caption_keys`.

    Returns:
        (N, M) Boolean array or tensor.
    """
    scenes, texts = scenes[:, None], texts[None]
    return ((scenes == texts) | (texts == _NOT_NAMED)).all(-1)
