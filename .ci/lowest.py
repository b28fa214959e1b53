"""Lowest version that pyproject.toml admits of each requirement, as constraints for pip.

python .ci/lowest.py > lowest.txt && pip install -e ".[dev]" -c lowest.txt
"""

import pathlib
import re
import tomllib

PROJECT = pathlib.Path(__file__).resolve().parents[1] / "pyproject.toml"


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lowest = {}
    for requirement in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        parts = re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", requirement)
        if parts is None:
            raise ValueError(f"pyproject.toml: {requirement!r} is not of the form name>=version.")
        name, version = parts.groups()
        if lowest.setdefault(name, version) != version:
            raise ValueError(f"pyproject.toml: {name} has two lowest versions.")
    print("\n".join(f"{name}=={version}" for name, version in sorted(lowest.items())))


if __name__ == "__main__":
    main()
