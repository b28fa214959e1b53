"""Registries: one implementation a name, and errors that list the choices."""

import pytest

from clickflax.batch import Registry


def test_a_registered_name_finds_its_implementation():
    shapes = Registry("shape", {"round": 1})

    @shapes.register("square")
    def square():
        return 4

    assert shapes.find("square", "config.shape")() == 4
    assert shapes.find("round", "config.shape") == 1
    assert sorted(shapes) == ["round", "square"]


def test_a_name_is_registered_once():
    shapes = Registry("shape", {"round": 1})
    shapes.register("round")(1)  # the same again, as when a module is imported twice
    with pytest.raises(ValueError, match="shape 'round' is registered already: 1"):
        shapes.register("round")(2)


def test_an_unknown_name_lists_the_choices_and_the_nearest():
    shapes = Registry("shape", {"round": 1, "square": 2})
    with pytest.raises(
        ValueError, match=r"config.shape='sqare' .*\['round', 'square'\].*'square'\?"
    ):
        shapes.find("sqare", "config.shape")
