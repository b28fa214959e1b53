"""What README says is so."""

import re
import shlex

import pytest

from clickflax.cli import VERBS


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_its_two_commands_set_everything_up(readme):
    commands = [
        "pip install -e . && "
        "clickflax train --config=configs/quickstart.py --workdir=runs/quickstart",
        'pip install -e ".[dev]" && pytest -n 2 --dist worksteal',
    ]
    assert all(f"\n{command}\n" in readme for command in commands)


def test_every_command_names_a_verb_and_every_config_is_there(root, readme):
    blocks = re.findall(r"```\n(.*?)```", readme, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [
        shlex.split(line) for line in lines if line.startswith("clickflax ") and "/" in line
    ]
    verbs = {command[1] for command in commands if not command[0].endswith("/")}
    assert verbs - {"VERB"} <= set(VERBS)
    assert {"prepare", "train", "evaluate", "recommend"} <= verbs
    for config in re.findall(r"configs/\w+\.py", readme):
        assert (root / config).is_file()


def test_every_linked_file_is_there(root, readme):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert [link for link in links if not (root / link).exists()] == []


def test_the_tree_names_what_is_there(root, readme):
    tree = readme.split("## The tree")[1].split("```")[1]
    tops = re.findall(r"^(\w+)/", tree, re.MULTILINE)
    assert tops == ["clickflax", "configs", "experiments", "launch", "tests"]
    inside = re.findall(r"(\w+\.py|^  \w+/)", tree.split("configs/")[0], re.MULTILINE)
    assert [name for name in inside if not (root / "clickflax" / name.strip()).exists()] == []
