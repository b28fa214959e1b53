"""`clickflax report`: an HTML page with the results of runs, which opens without a network."""

import argparse
import html
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from clickflax.runtime.terminal import say
from clickflax.study.gather import gather_report, open_source

PAGE = pathlib.Path(__file__).with_name("page")


def make_page(contents: Mapping[str, Any]) -> str:
    """The page: its contents as JSON, and the script that draws them.

    Raises ValueError if plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ValueError(
            "`clickflax report` draws with plotly: pip install 'clickflax[report]'."
        ) from error
    parts = {name: (PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    # "</script" in a script ends it, and "<!--<script" hides its end.
    data = json.dumps(contents, allow_nan=False).replace("<", "\\u003c")
    values = {
        "TITLE": html.escape(contents["question"]),
        "STYLE": parts["page.css"],
        "PLOTLY": get_plotlyjs(),
        "DATA": data,
        "SCRIPT": parts["page.js"],
    }
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    # In one pass: a value may contain the mark of another.
    return re.sub("<!--([A-Z]+)-->", lambda mark: values[mark[1]], page)


def main(argv: list[str]) -> None:
    """Runs `clickflax report DIR... --out report.html`."""
    parser = argparse.ArgumentParser(prog="clickflax report", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=pathlib.Path, metavar="DIR", help="a study, or several runs"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="the file of the page, such as report.html"
    )
    flags = parser.parse_args(argv)
    text = make_page(gather_report(open_source(flags.folders)))
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(text, encoding="utf-8")
    say(f"{flags.out}: {len(text) / 1e6:.1f} MB")
