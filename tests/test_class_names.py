import pytest

from evclip_ray.class_names import normalized_name, split_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("Shake__hands ", "Shake hands"),
        ("Putting something", "Putting something"),
        ("push", "push"),
        ("TaiChi", "tai chi"),
        ("YoYo", "yo yo"),
        ("Cut tomato", "Cut tomato"),
    ],
)
def test_split_words_splits_one_camel_case_word_only(name, words):
    assert split_words(name) == words


@pytest.mark.parametrize(
    "name", ["HandStandPushups", "handstand pushups", "Handstand_Pushups", "hand-stand/pushups"]
)
def test_normalized_name_ignores_case_and_signs(name):
    assert normalized_name(name) == "handstandpushups"


def test_normalized_name_is_equal_for_both_unicode_forms():
    assert normalized_name("Cafe\u0301") == normalized_name("caf\u00e9") != normalized_name("cafe")


def test_normalized_name_of_signs_only_is_unchanged():
    assert [normalized_name(name) for name in ("-", "+", "")] == ["-", "+", ""]
