"""The tables of a study as Markdown, LaTeX or JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clickflax.runtime.log import finite
from clickflax.study.results import LEVEL, Line, Result, Table
from clickflax.study.statistics import Difference, Spread


def number(result: Result, level: float = LEVEL) -> str:
    """A mean, its interval over seeds, and whether it differs from the baseline: * for better, †
    for worse, of a metric of a ranking, which is better when it is higher. Nothing for NaN.
    """
    if math.isnan(result.seeds.mean):
        return ""
    text = f"{result.seeds.mean:.4f}"
    if not math.isnan(result.seeds.half):
        text += f" ± {result.seeds.half:.4f}"
    if result.apart is not None and result.p < level:
        text += "*" if result.apart.mean > 0 else "†"
    return text


def seconds(line: Line) -> str:
    """The mean time of training; "" as long as nothing is."""
    return f"{sum(line.seconds) / len(line.seconds):,.0f} s" if line.seconds else ""


def cells(table: Table, metrics: Sequence[str]) -> list[list[str]]:
    """The head of a table and its lines, as words."""
    published = any(line.published for line in table.lines)
    rows = [["", *metrics, "seeds", *(["published"] if published else []), "training"]]
    for line in table.lines:
        results = [line.results.get(metric) for metric in metrics]
        there = ["" if result is None else number(result) for result in results]
        done = len(line.seconds)
        seeds = str(done) if done == table.planned else f"{done} of {table.planned}"
        beside = [line.published] if published else []
        rows.append([line.config, *there, seeds, *beside, seconds(line)])
    return rows


def markdown(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """A section for each table."""
    parts = []
    for table in tables:
        rows = cells(table, metrics)
        align = ["---", *["--:"] * (len(metrics) + 1), *["---"] * (len(rows[0]) - len(metrics) - 2)]
        lines = ["| " + " | ".join(row) + " |" for row in (rows[0], align, *rows[1:])]
        parts.append("\n".join([f"### {title(table)}", "", *lines]))
    return "\n\n".join([*parts, legend(tables, baseline)])


def title(table: Table) -> str:
    """What a table is about."""
    return table.data if table.asked == "test" else f"{table.data}, {table.asked}"


def legend(tables: Sequence[Table], baseline: str) -> str:
    """What the signs of a table mean, as far as there are any."""
    results = [one for table in tables for line in table.lines for one in line.results.values()]
    words = []
    if any(not math.isnan(one.seeds.half) for one in results):
        words.append("± is the 95 % interval of the mean over seeds, by Student's t.")
    if any(one.apart is not None for one in results):
        words.append(
            f"\\* is better and † worse than {baseline} for the same users: p < {LEVEL:g} by the "
            "paired bootstrap, with Holm's correction for the lines of a table."
        )
    for table in tables:
        if table.strangers:
            names = ", ".join(table.strangers)
            words.append(f"{title(table)}: {names}: asked of others than {baseline}, not compared.")
    return " ".join(words)


LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "*": r"$^{*}$", "†": r"$^{\dagger}$"}
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}"}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def latex(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """A `tabular` for each table, for the package booktabs."""
    parts = []
    for table in tables:
        head, *rows = cells(table, metrics)
        columns = "l" + "r" * (len(metrics) + 1) + "l" * (len(head) - len(metrics) - 2)
        body = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        lines += [" & ".join(map(escaped, head)) + r" \\", r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join([f"% {title(table)}", *lines]))
    return "\n\n".join([*parts, f"% {legend(tables, baseline)}".replace("\\*", "*")])


def as_json(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """All numbers; `read_tables` reads them again."""
    told = {
        "metrics": list(metrics),
        "baseline": baseline,
        "tables": [table._replace(lines=[plain(line) for line in table.lines]) for table in tables],
    }
    told["tables"] = [table._asdict() for table in told["tables"]]
    return json.dumps(finite(told), indent=1, allow_nan=False)


def plain(line: Line) -> dict[str, Any]:
    """A line as dictionaries and lists."""
    results = {
        name: {
            "seeds": one.seeds._asdict(),
            "apart": None if one.apart is None else one.apart._asdict(),
            "p": one.p,
        }
        for name, one in line.results.items()
    }
    return line._asdict() | {"results": results}


def read_tables(text: str) -> tuple[list[Table], list[str], str]:
    """Tables, metrics and baseline of `as_json`."""
    told = json.loads(text)

    def number_of(fields: Mapping[str, Any]) -> dict[str, float]:
        return {name: math.nan if value is None else value for name, value in fields.items()}

    def result_of(fields: Mapping[str, Any]) -> Result:
        apart = fields["apart"]
        return Result(
            Spread(**number_of(fields["seeds"])),
            None if apart is None else Difference(**number_of(apart)),
            math.nan if fields["p"] is None else fields["p"],
        )

    def line_of(fields: Mapping[str, Any]) -> Line:
        results = {name: result_of(one) for name, one in fields["results"].items()}
        values = {
            name: [math.nan if value is None else value for value in some]
            for name, some in fields["values"].items()
        }
        return Line(**{**fields, "results": results, "values": values})

    tables = [
        Table(**{**table, "lines": [line_of(line) for line in table["lines"]]})
        for table in told["tables"]
    ]
    return tables, told["metrics"], told["baseline"]


WRITERS = {"md": markdown, "latex": latex, "json": as_json}
