"""Text on the terminal: names, titles and paths of users are shown literally, and never obeyed."""

import re
import sys
from typing import Any

import rich.console
import rich.text

# Control characters, which a terminal would obey; marks that reverse the direction of the text
# after them; and halves of surrogate pairs, which cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Returns the text with escapes, such as `\\x1b`, for what is unsafe to print."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: object, error: bool = False) -> None:
    """Prints text literally, to standard output or standard error."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=error)


def show_cursor() -> None:
    """Shows the cursor of a terminal, which a progress line hides."""
    if sys.stderr.isatty():
        print("\x1b[?25h", end="", file=sys.stderr)


class Console(rich.console.Console):
    """A console that prints text literally: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Returns the text as rich prints it, in cells and titles of tables, too."""
        return super().render_str(printable(text), **options)
