"""The tables of a study as Markdown, LaTeX or JSON."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from clickflax.runtime.files import read_json
from clickflax.runtime.log import finite
from clickflax.study.results import LEVEL, Line, Result, Table
from clickflax.study.statistics import Difference, Spread, holm
from clickflax.tasks.label_metrics import LOWER_IS_BETTER


def number(metric: str, result: Result, level: float = LEVEL) -> str:
    """A mean, its interval and deviation over seeds, and whether it differs from the baseline: * is
    better, † worse. Nothing for NaN.
    """
    if math.isnan(result.seeds.mean):
        return ""
    text = f"{result.seeds.mean:.4f}"
    if not math.isnan(result.seeds.half):
        text += f" ± {result.seeds.half:.4f} ({result.seeds.deviation:.4f})"
    if result.apart is not None and result.p < level:
        lower = metric.rpartition("/")[2] in LOWER_IS_BETTER
        text += "*" if (result.apart.mean < 0) == lower else "†"
    return text


def apart(result: Result | None) -> str:
    """The difference from the baseline over users, with its interval; "" where there is none."""
    found = result and result.apart
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" if found else ""


def seconds(line: Line) -> str:
    """The mean time of training; "" as long as nothing is."""
    return f"{sum(line.seconds) / len(line.seconds):,.0f} s" if line.seconds else ""


def cells(table: Table, metrics: Sequence[str]) -> tuple[list[list[str]], int]:
    """The head of a table and its lines, as words; and how many columns are numbers."""
    published = any(line.published for line in table.lines)
    compared = {m for line in table.lines for m in metrics if apart(line.results.get(m))}
    columns = [(metric, f"Δ {metric}") if metric in compared else (metric,) for metric in metrics]
    names = [name for column in columns for name in column]
    rows = [["", *names, "seeds", *(["published"] if published else []), "training"]]
    for line in table.lines:
        there = []
        for metric, *more in columns:
            result = line.results.get(metric)
            there += [
                "" if result is None else number(metric, result),
                *(apart(result) for _ in more),
            ]
        done = len(line.seconds)
        seeds = str(done) if done == table.planned else f"{done} of {table.planned}"
        beside = [line.published] if published else []
        rows.append([line.config, *there, seeds, *beside, seconds(line)])
    return rows, len(names) + 1


def markdown(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """A section for each table."""
    parts = []
    for table in tables:
        rows, numbers = cells(table, metrics)
        align = ["---", *["--:"] * numbers, *["---"] * (len(rows[0]) - numbers - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (rows[0], align, *rows[1:])]
        parts.append("\n".join([f"### {title(table)}", "", *lines]))
    return "\n\n".join([*parts, legend(tables, baseline)])


def title(table: Table) -> str:
    """What a table is about."""
    return table.data if table.asked == "test" else f"{table.data}, {table.asked}"


def legend(tables: Sequence[Table], baseline: str, apart: bool = True) -> str:
    """What the signs of a table mean, as far as there are any; it may tell how configs are `apart`
    from the baseline in columns of their own.
    """
    results = [one for table in tables for line in table.lines for one in line.results.values()]
    words = []
    if any(not math.isnan(one.seeds.half) for one in results):
        words.append(
            "± is the 95 % interval of the mean over seeds, by Student's t; in brackets is their "
            "standard deviation."
        )
    if any(one.apart is not None for one in results):
        if apart:
            words.append(
                f"Δ is the difference from {baseline} for the same users, with its 95 % interval "
                "by the paired bootstrap."
            )
        words.append(
            f"\\* is better and † worse than {baseline} for the same users: p < {LEVEL:g} by the "
            "paired bootstrap, with Holm's correction for the lines of a table."
        )
        words += filter(None, [of_t_tests(tables)])
    for table in tables:
        words += [f"{title(table)}: not compared: {one}." for one in table.strangers]
    return " ".join(words)


def of_t_tests(tables: Sequence[Table]) -> str:
    """Whether paired t-tests, with the same correction, find what the bootstrap has found."""
    otherwise, tested = [], {}
    for table in tables:
        for metric in dict.fromkeys(name for line in table.lines for name in line.results):
            results = {line.config: line.results.get(metric) for line in table.lines}
            found = {name: one for name, one in results.items() if one and one.apart}
            tests = {name: one.apart.p_t for name, one in found.items() if one.apart}
            if tests:  # metrics of labels have none
                tested[metric] = not any(map(math.isnan, tests.values()))
            if not tested.get(metric):
                continue
            p = holm(tests)
            otherwise += [
                f"{metric} of {name} ({title(table)}, p = {p[name]:.2g})"
                for name, one in found.items()
                if (p[name] < LEVEL) != (one.p < LEVEL)
            ]
    if not otherwise:
        rankings = "" if all(tested.values()) else " of rankings"
        return f"Paired t-tests{rankings} find the same." if any(tested.values()) else ""
    return f"Paired t-tests find otherwise for {', '.join(otherwise)}."


LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "*": r"$^{*}$",
    "†": r"$^{\dagger}$",
    "Δ": r"$\Delta$",
}
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}"}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def latex(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """A `tabular` for each table, for the package booktabs."""
    parts = []
    for table in tables:
        (head, *rows), numbers = cells(table, metrics)
        columns = "l" + "r" * numbers + "l" * (len(head) - numbers - 1)
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


def read_tables(path: pathlib.Path) -> tuple[list[Table], list[str], str]:
    """Tables, metrics and baseline of a file that `as_json` has made."""
    told = read_json(path)
    if not isinstance(told, dict) or not {"tables", "metrics", "baseline"} <= told.keys():
        raise ValueError(
            f"{path} has no tables of a study: name the folder of one, or a file that `clickflax "
            "study table DIR --format json` has made of it."
        )

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
