"""What users have named is printed literally: no markup, no emoji, no escape sequence."""

import ast
import io
import json
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest
import rich.table

from clickflax import cli
from clickflax.inference.recommend import Recommendation, print_recommendations
from clickflax.runtime.terminal import Console, printable, say
from clickflax.study.report import make_page

PACKAGE = pathlib.Path(cli.__file__).parent
NASTY = [
    "[/INST]",
    "Dress [blue]",
    "[red]",
    "[rec] (2007)",
    ":smile:",
    "[link=http://x]x[/link]",
    "\\[bold]",
    "%{x} {0} $HOME",
    "<!--<script>alert(1)</script>",
    "<!--DATA-->",
]
ESCAPES = ["\x1b[2J", "\x9b31m", "a\rb", "\x07", "\u202eabc", "\ud800"]


def printed(text):
    """A cell and a title with this text, as a wide terminal shows them."""
    table = rich.table.Table(title=text)
    table.add_column(text)
    table.add_row(text)
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system=None)
    console.print(table)
    console.print(text)
    return out.getvalue()


@pytest.mark.parametrize("text", NASTY)
def test_markup_is_text_in_titles_headers_cells_and_lines(text):
    assert printed(text).count(text) == 4


@pytest.mark.parametrize("text", ESCAPES)
def test_control_characters_are_shown_as_escapes(text):
    shown = printed(text)
    assert shown.count(printable(text)) == 4
    assert not set("\x07\x9b\r\u202e\ud800") & set(shown)
    assert "\x1b[2J" not in shown


@hypothesis.given(st.text())
def test_what_is_printed_has_no_control_characters_and_loses_nothing(text):
    shown = printable(text)
    assert not [c for c in shown if ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160]
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_a_recommended_title_is_shown_and_is_json_as_it_is(capsys):
    items = [Recommendation(text, f"{text} {text}", 1.0) for text in ["[/b]", "\x1b[2J"]]
    print_recommendations(items)
    *table, last = capsys.readouterr().out.splitlines()
    assert "[/b] [/b]" in "\n".join(table) and "\x1b" not in "\n".join(table)
    assert [one["title"] for one in json.loads(last)] == [one.title for one in items]


def test_an_error_does_not_reach_the_terminal_as_a_command(tmp_path, capsys):
    assert cli.main(["evaluate", "--run", str(tmp_path / "a\x1b[2J")]) == 1
    message = capsys.readouterr().err
    assert "\x1b" not in message and "a\\x1b[2J" in message


def test_a_line_is_printed_literally(capsys):
    say("a\x1b[2J", error=True)
    say("[b]\x07")
    assert capsys.readouterr() == ("[b]\\x07\n", "a\\x1b[2J\n")


def is_bare_print(node):
    """Whether a node prints anything but JSON, in which control characters are escaped."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    return node.func.id == "print" and "json.dumps(" not in ast.unparse(node)


def test_one_module_prints_text_of_users():
    printing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(map(is_bare_print, ast.walk(ast.parse(path.read_text()))))
    }
    # A simulation prints nothing of users but the folder that its own command names.
    assert printing == {"runtime/terminal.py", "simulation/main.py"}


def test_only_one_module_makes_consoles():
    makers = [path for path in PACKAGE.rglob("*.py") if "rich.console" in path.read_text()]
    assert [path.name for path in makers] == ["terminal.py"]


@pytest.mark.parametrize("text", NASTY)
def test_the_contents_of_a_page_are_whole_whatever_they_say(text):
    page = make_page({"question": text, "names": [text]})
    start = page.index('type="application/json">') + len('type="application/json">')
    data = page[start : page.index("</script>", start)]
    assert "<" not in data
    assert json.loads(data) == {"question": text, "names": [text]}
