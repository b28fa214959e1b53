"""`clickflax report`: one page of what runs have found, which opens without a network."""

import argparse
import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from clickflax.study.gather import open_source, told

PAGE = pathlib.Path(__file__).with_name("page")


def page(found: Mapping[str, Any]) -> str:
    """The page: what is found as JSON, and what draws it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ValueError(
            "`clickflax report` draws with plotly: pip install 'clickflax[report]'."
        ) from error
    parts = {name: (PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    # In a script, "</" would end it.
    data = json.dumps(found, allow_nan=False).replace("</", "<\\/")
    text = (PAGE / "page.html").read_text(encoding="utf-8")
    for mark, value in {
        "TITLE": html.escape(found["question"]),
        "STYLE": parts["page.css"],
        "PLOTLY": get_plotlyjs(),
        "DATA": data,
        "SCRIPT": parts["page.js"],
    }.items():
        text = text.replace(f"<!--{mark}-->", value, 1)
    return text


def main(argv: list[str]) -> None:
    """`clickflax report DIR... --out report.html`."""
    parser = argparse.ArgumentParser(prog="clickflax report", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=pathlib.Path, metavar="DIR", help="a study, or several runs"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the page: report.html")
    flags = parser.parse_args(argv)
    text = page(told(open_source(flags.folders)))
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(text, encoding="utf-8")
    print(f"{flags.out}: {len(text) / 1e6:.1f} MB")
