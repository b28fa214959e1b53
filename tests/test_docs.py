"""README, CONTRIBUTING and docs/: code runs, links lead to files, and the tree is right."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import documentation
import pytest
from documentation import MARK, ROOT, all_blocks, blocks_of, commands_of, pages

from clickflax.cli import VERBS
from clickflax.config.default import default, knobs

README = ROOT / "README.md"
KNOB = r"(?<![\w.])config\.[a-z_]+(?:\.[a-z_]+)?"


@pytest.fixture(scope="module")
def readme():
    return README.read_text(encoding="utf-8")


def run_documentation(folder, *flags):
    """Runs the blocks of all pages in a process of their own, as a user has it."""
    command = [sys.executable, documentation.__file__, str(folder), *flags]
    # Python blocks and commands import the package, and extensions, from the checkout.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_has_a_language_and_a_mark(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks_of(page)), "a fence is indented, or has no end"
    for block in blocks_of(page):
        assert block.language, f"{block.where}: no language"
        if block.language != "text":
            assert MARK.fullmatch(block.mark), f"{block.where}: mark {block.mark!r}"


def test_an_unmarked_block_and_an_unknown_mark_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(documentation, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```bash\ntrue\n```\n\n```python\nx = 1\n```\n")
    marked, unmarked = blocks_of(page)
    assert (marked.mark, marked.language, marked.code) == ("run", "bash", "true\n")
    assert (unmarked.mark, unmarked.where) == ("", "page.md:6")
    assert not MARK.fullmatch(unmarked.mark)
    assert not MARK.fullmatch("not run")


@pytest.mark.slow  # .ci/run runs all but the slow blocks
def test_the_code_of_the_documentation_runs(tmp_path):
    done = run_documentation(tmp_path, "--slow")
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def test_a_block_that_fails_is_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```python\nx = 1\n```\n\n<!-- run -->\n```python\n1 / 0\n```\n")
    monkeypatch.setattr(documentation, "ROOT", tmp_path)
    monkeypatch.setattr(documentation, "pages", lambda: [page])
    monkeypatch.setattr(documentation, "write_log", lambda: None)
    monkeypatch.setattr(documentation, "notebook_blocks", list)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    assert documentation.main(str(tmp_path / "work")) == 1
    assert "failed: page.md:6" in capsys.readouterr().out


def test_every_command_names_a_verb_and_every_config_exists():
    verbs = set()
    for block in all_blocks():
        if block.language == "bash":
            words = commands_of(block.code)
            verbs |= {command[1] for command in words if command[0] == "clickflax"}
    assert verbs - {"--help"} <= set(VERBS)
    assert {"prepare", "train", "evaluate", "recommend"} <= verbs
    for page in pages():
        for config in re.findall(r"configs/\w+\.py", page.read_text(encoding="utf-8")):
            assert (ROOT / config).is_file(), f"{page}: {config}"


def test_every_knob_that_a_page_names_exists():
    known = knobs(default())
    groups = {name.rsplit(".", 1)[0] for name in known}
    for page in pages():
        for name in re.findall(KNOB, page.read_text("utf-8")):
            assert name in known or name in groups, f"{page}: {name}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    files = [link.split("#")[0] for link in links if not link.startswith("#")]
    generated = {"knobs.md"}  # docs/hooks.py makes them
    missing = [
        link
        for link in files
        if pathlib.Path(link).name not in generated and not (page.parent / link).exists()
    ]
    assert missing == []


def test_the_notebook_has_no_outputs_and_every_cell_compiles():
    page = ROOT / "examples" / "quickstart.ipynb"
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    for block in documentation.notebook_blocks():
        compile(block.code, block.where, "exec")


def test_the_readme_is_short(readme):
    assert len(readme.splitlines()) <= 160


def test_the_tree_of_the_readme_names_what_exists(readme):
    tree = next(block.code for block in blocks_of(README) if "\nclickflax/\n" in block.code)
    tops = re.findall(r"^(\w+)/", tree, re.MULTILINE)
    assert tops == ["clickflax", "configs", "docs", "experiments", "launch", "tests"]
    inside = re.findall(r"^  (.*)$", tree.split("configs/  ")[0], re.MULTILINE)
    names = {name for line in inside for name in re.findall(r"\w+(?:\.py|/)", line)}
    package = ROOT / "clickflax"
    assert {name for name in names if not (package / name).exists()} == set()
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert folders == {name.removesuffix("/") for name in names if name.endswith("/")}


def load_hooks():
    """The hooks of mkdocs, which mkdocs loads as a file."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks


def test_the_page_of_knobs_has_every_knob_once():
    text = load_hooks().knobs_page()
    names = re.findall(r"^\| `(config\.[\w.]+)` \|", text, re.MULTILINE)
    assert sorted(names) == sorted(knobs(default()))


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("README.md", "docs/glossary.md", "glossary.md"),
        ("README.md", "experiments/speed.md", "experiments/speed.md"),
        ("README.md", "LICENSE", None),
        ("docs/guide/data.md", "../glossary.md#terms", "../glossary.md#terms"),
        ("docs/guide/data.md", "../../experiments/engines.md", "../experiments/engines.md"),
        ("docs/results.md", "../experiments/objectives.png", "experiments/objectives.png"),
        ("experiments/speed.md", "scale.svg", "scale.svg"),
        ("experiments/speed.md", "https://jax.dev", "https://jax.dev"),
        ("README.md", "#tasks", "#tasks"),
    ],
)
def test_links_of_a_page_become_links_of_the_site(page, link, there):
    assert load_hooks().site_link(page, link) == there
