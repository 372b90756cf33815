"""Captions: forms, words, and which caption is true of which picture."""

import pickle

import numpy as np
import pytest

from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.captions import (
    CAPTION_FORMS,
    caption_is_true,
    caption_keys,
    captions,
    fill_form,
    forms_of,
    scene_keys,
    true_pairs,
    vocabulary,
)
from evclip_ray.world.figure import CLOTHES, draw_look


@pytest.fixture(scope="module")
def looks():
    random = np.random.default_rng(0)
    return [draw_look(random) for _ in range(40)]


def with_shirt(looks, shirt):
    return next(look for look in looks if look.shirt == shirt)


def test_forms_include_the_default_template():
    assert len(CAPTION_FORMS) >= 7
    assert "A video of {action}." in CAPTION_FORMS


def test_caption_knows_the_colours_that_it_names(looks):
    look = with_shirt(looks, "orange")
    full = fill_form("a person in a {shirt} shirt and {trousers} trousers {action}", "jumping", look)
    assert full == f"a person in an orange shirt and {look.trousers} trousers jumping"
    assert (full.action, full.shirt, full.trousers) == ("jumping", "orange", look.trousers)
    assert fill_form("a person {action}", "jumping", look).shirt is None


def test_caption_survives_pickling(looks):
    caption = captions("bowing", looks[0], np.random.default_rng(1))
    copy = pickle.loads(pickle.dumps(caption))
    assert (copy, copy.action, copy.shirt) == (caption, caption.action, caption.shirt)


def test_vocabulary_covers_every_caption(looks):
    words = set(vocabulary())
    for action in ACTIONS:
        for form in forms_of(action):
            text = fill_form(form, action, looks[0]).lower().replace(".", " .")
            assert set(text.split()) <= words
    assert set(CLOTHES) <= words


def test_caption_of_the_reverse_action_is_true_of_a_still(looks):
    caption = fill_form("a person {action}", "standing up", looks[0])
    assert caption_is_true(caption, "sitting down", looks[1])
    assert not caption_is_true(caption, "bowing", looks[1])


def test_half_forms_are_true_of_every_action_with_that_half(looks):
    part = fill_form("a person moving {part}", "bending the left arm", looks[0])
    assert part == "a person moving the left arm"
    assert caption_is_true(part, "raising the left arm", looks[1])
    assert not caption_is_true(part, "bending both arms", looks[1])
    assert not caption_is_true(part, "jumping", looks[1])
    motion = fill_form("a person {motion} a limb", "lowering both arms", looks[0])
    assert motion == "a person lowering a limb"
    assert caption_is_true(motion, "raising the left leg", looks[1])
    assert not caption_is_true(motion, "bending both arms", looks[1])


def test_action_of_the_whole_body_has_no_halves(looks):
    assert forms_of("jumping") == CAPTION_FORMS
    assert len(forms_of("raising both arms")) > len(CAPTION_FORMS)


def test_caption_with_another_shirt_is_false(looks):
    caption = fill_form("a person in a {shirt} shirt {action}", "jumping", with_shirt(looks, "red"))
    assert caption_is_true(caption, "jumping", with_shirt(looks, "red"))
    assert not caption_is_true(caption, "jumping", with_shirt(looks, "blue"))


def test_true_pairs_agree_with_caption_is_true(looks):
    random = np.random.default_rng(2)
    actions = [list(ACTIONS)[index] for index in random.integers(0, 8, len(looks))]
    texts = [captions(action, look, random) for action, look in zip(actions, looks, strict=True)]
    pairs = true_pairs(scene_keys(actions, looks), caption_keys(texts))
    assert pairs.diagonal().all()
    expected = [
        [caption_is_true(text, action, look) for text in texts]
        for action, look in zip(actions, looks, strict=True)
    ]
    np.testing.assert_array_equal(pairs, expected)
