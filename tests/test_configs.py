"""Every file in configs/ is a lab note that loads."""

import ast
import pathlib

import pytest

from clickflax.config.default import default, differences, load
from clickflax.training.setup import check_config

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = sorted((CHECKOUT / "configs").glob("*.py"))


def test_there_are_configs():
    assert CHECKOUT / "configs" / "quickstart.py" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_makes_sense_and_differs_from_the_default(path):
    config = load(path)
    check_config(config)
    assert differences(config, default())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_docstring_of_a_config_names_its_command(path):
    note = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert note is not None
    assert f"clickflax train --config=configs/{path.name} --workdir=" in note
