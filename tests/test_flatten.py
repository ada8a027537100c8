"""Dotted keys."""

from grpo.flatten import flatten
from recipes.load import differences


def test_nested_settings_have_dotted_keys_in_their_order():
    assert flatten({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": None, "g": {}}) == {
        "a.b": 1,
        "a.c.d": [1, {"e": 2}],
        "f": None,
    }


def test_differences_are_the_dotted_keys_whose_values_are_not_the_same():
    there = {"model": {"path": "a", "lora": None}, "steps": 3}
    here = {"model": {"path": "b", "lora": {"r": 8}}, "steps": 3, "seed": 1}
    assert differences(there, here) == {"model.path": ("a", "b"), "model.lora.r": (None, 8), "seed": (None, 1)}
    assert differences(here, here) == {}
