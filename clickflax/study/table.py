"""The tables of a study as Markdown, LaTeX or JSON."""

import json
import math
from collections.abc import Sequence

from clickflax.study.results import LEVEL, Line, Result, Table

FORMATS = ("md", "latex", "json")


def number(result: Result, level: float = LEVEL) -> str:
    """A mean, its interval over seeds, and whether it differs from the baseline: * for better, †
    for worse.
    """
    text = f"{result.seeds.mean:.4f}"
    if not math.isnan(result.seeds.half):
        text += f" ± {result.seeds.half:.4f}"
    if result.apart is not None and result.p < level:
        text += "*" if result.apart.mean > 0 else "†"
    return text


def seconds(line: Line) -> str:
    """The mean time of training."""
    times = [record["train_seconds"] for record in line.records]
    return f"{sum(times) / len(times):,.0f} s"


def cells(table: Table, metrics: Sequence[str]) -> list[list[str]]:
    """The head of a table and its lines, as words."""
    published = any(line.published for line in table.lines)
    rows = [["", *metrics, "seeds", *(["published"] if published else []), "training"]]
    for line in table.lines:
        there = [number(line.results[metric]) if line.records else "" for metric in metrics]
        seeds = str(len(line.records))
        if len(line.records) < table.planned:
            seeds += f" of {table.planned}"
        beside = [line.published] if published else []
        rows.append([line.config, *there, seeds, *beside, seconds(line) if line.records else ""])
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
    """All numbers."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    def told(line: Line, metric: str) -> dict:
        result = line.results[metric]
        found: dict = {name: finite(value) for name, value in result.seeds._asdict().items()}
        found["values"] = [record[metric] for record in line.records]
        if result.apart is not None:
            apart = result.apart._asdict() | {"p_holm": result.p, "than": baseline}
            found["difference"] = {k: finite(v) if k != "than" else v for k, v in apart.items()}
        return found

    found = [
        {
            "data": table.data,
            "asked": table.asked,
            "config": line.config,
            "published": line.published,
            "seeds": len(line.records),
            "planned": table.planned,
            "metrics": {metric: told(line, metric) for metric in line.results},
            "train_seconds": [record["train_seconds"] for record in line.records],
            "commits": sorted({str(record["environment"]["commit"]) for record in line.records}),
        }
        for table in tables
        for line in table.lines
    ]
    return json.dumps(found, indent=1)


WRITERS = {"md": markdown, "latex": latex, "json": as_json}
