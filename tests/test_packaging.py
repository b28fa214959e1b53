"""Packaging: versions, metadata, and the environment of the recorded numbers."""

import datetime
import importlib.metadata
import json
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clickflax
from experiments.study import HERE

ROOT = HERE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Extras without a part in the recorded numbers.
NOT_RECORDED = {"docs"}
REQUIREMENTS = {
    text: Requirement(text)
    for texts in (
        PROJECT["dependencies"],
        *(
            more
            for name, more in PROJECT["optional-dependencies"].items()
            if name not in NOT_RECORDED
        ),
    )
    for text in texts
}


@pytest.fixture(scope="module")
def pinned():
    """Version of each distribution of constraints.txt."""
    lines = (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_the_constraints_pin_each_requirement_to_a_version_that_it_admits(text, pinned):
    requirement = REQUIREMENTS[text]
    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_the_records_were_made_with_the_versions_of_the_constraints(pinned):
    def versions(value):
        if isinstance(value, dict):
            yield from [value["versions"]] if "versions" in value else []
            for inner in value.values():
                yield from versions(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from versions(inner)

    python = re.search(r"Python (\S+)", (HERE / "constraints.txt").read_text(encoding="utf-8"))
    assert python
    known = {name: str(version) for name, version in pinned.items()} | {"python": python[1]}
    for path in HERE.rglob("*.json"):
        for made in versions(json.loads(path.read_text(encoding="utf-8"))):
            made = {canonicalize_name(name): version for name, version in made.items()}
            made.pop("clickflax", None)
            assert made.items() <= known.items(), path


def test_the_citation_has_the_version_of_the_package_and_a_date():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == clickflax.__version__
    assert isinstance(citation["date-released"], datetime.date)
    assert citation["license"] == PROJECT["license"]


def test_the_changelog_has_the_version_of_the_citation_with_its_date():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (version, date), *_ = re.findall(r"^## \[(.+)\] - (.+)$", changelog, re.MULTILINE)
    assert (version, date) == (clickflax.__version__, str(citation["date-released"]))


def test_the_package_has_its_mark_of_types():
    files = importlib.metadata.files("clickflax") or []
    installed = any(path.name == "py.typed" for path in files)
    assert installed or (ROOT / "clickflax" / "py.typed").is_file()  # an editable installation
