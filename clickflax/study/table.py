"""The tables of a study as Markdown, LaTeX or JSON."""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from clickflax.runtime.files import read_json
from clickflax.runtime.log import finite
from clickflax.runtime.schema import check_schema
from clickflax.study.results import LEVEL, Result, Row, Table
from clickflax.study.statistics import Difference, Spread, holm
from clickflax.tasks.label_metrics import LOWER_IS_BETTER

# Keys of the JSON files that earlier versions wrote, and their names today.
OLD_TABLE_KEYS = {"asked": "evaluation", "lines": "rows", "strangers": "not_compared"}
OLD_RESULT_KEYS = {"apart": "difference"}
MAYBE_NUMBER = (float, None)  # NaN is null
TABLE = {
    "data": str,
    "evaluation": str,
    "rows": [
        {
            "config": str,
            "published": str,
            "knobs": {str: object},
            "seconds": [float],
            "values": {str: [MAYBE_NUMBER]},
            "environments": [{str: object}],
            "results": {str: {str: object}},
        }
    ],
    "planned": int,
    "not_compared": [str],
}
RESULT = {
    "seeds": dict.fromkeys(Spread._fields, MAYBE_NUMBER),
    "difference": (None, dict.fromkeys(Difference._fields, MAYBE_NUMBER)),
    "p": MAYBE_NUMBER,
}


def format_mean(metric: str, result: Result, level: float = LEVEL) -> str:
    """Mean ± half of its interval (standard deviation), and * or † if significantly different.

    * is better than the baseline, † worse. "" for NaN.
    """
    if math.isnan(result.seeds.mean):
        return ""
    text = f"{result.seeds.mean:.4f}"
    if not math.isnan(result.seeds.half):
        text += f" ± {result.seeds.half:.4f} ({result.seeds.deviation:.4f})"
    if result.difference is not None and result.p < level:
        lower = metric.rpartition("/")[2] in LOWER_IS_BETTER
        text += "*" if (result.difference.mean < 0) == lower else "†"
    return text


def format_difference(result: Result | None) -> str:
    """The difference from the baseline, with its interval; "" if there is none."""
    if result is None or result.difference is None:
        return ""
    difference = result.difference
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def format_seconds(row: Row) -> str:
    """The mean training time over seeds; "" without runs."""
    return f"{sum(row.seconds) / len(row.seconds):,.0f} s" if row.seconds else ""


def table_cells(table: Table, metrics: Sequence[str]) -> tuple[list[list[str]], int]:
    """The header and the rows of a table as text, and the number of numeric columns."""
    published = any(row.published for row in table.rows)
    compared = {
        metric
        for row in table.rows
        for metric in metrics
        if format_difference(row.results.get(metric))
    }
    columns = [(metric, f"Δ {metric}") if metric in compared else (metric,) for metric in metrics]
    names = [name for column in columns for name in column]
    cells = [["", *names, "seeds", *(["published"] if published else []), "training"]]
    for row in table.rows:
        numbers = []
        for metric, *delta in columns:
            result = row.results.get(metric)
            numbers.append("" if result is None else format_mean(metric, result))
            numbers += [format_difference(result) for _ in delta]
        done = len(row.seconds)
        seeds = str(done) if done == table.planned else f"{done} of {table.planned}"
        more = [row.published] if published else []
        cells.append([row.config, *numbers, seeds, *more, format_seconds(row)])
    return cells, len(names) + 1


def markdown(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """A section for each table, and the legend."""
    parts = []
    for table in tables:
        cells, numbers = table_cells(table, metrics)
        align = ["---", *["--:"] * numbers, *["---"] * (len(cells[0]) - numbers - 1)]
        is_number = [0 < column <= numbers for column in range(len(cells[0]))]
        head, *rows = (
            [
                cell if number else escape_markdown(cell)
                for cell, number in zip(row, is_number, strict=True)
            ]
            for row in cells
        )
        lines = ["| " + " | ".join(row) + " |" for row in (head, align, *rows)]
        parts.append("\n".join([f"### {escape_markdown(table_title(table))}", "", *lines]))
    return "\n\n".join([*parts, escaped_legend(tables, baseline)])


def escaped_legend(tables: Sequence[Table], baseline: str) -> str:
    """The legend, with names escaped for Markdown."""
    named = [
        table._replace(
            data=escape_markdown(table.data),
            evaluation=escape_markdown(table.evaluation),
            rows=[row._replace(config=escape_markdown(row.config)) for row in table.rows],
            not_compared=[escape_markdown(one) for one in table.not_compared],
        )
        for table in tables
    ]
    return legend(named, escape_markdown(baseline))


def escape_markdown(text: str) -> str:
    """The text in one line, with the signs escaped that Markdown would read as its own."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def table_title(table: Table) -> str:
    """The data set of a table, and its evaluation if it is not the usual one."""
    return table.data if table.evaluation == "test" else f"{table.data}, {table.evaluation}"


def legend(tables: Sequence[Table], baseline: str, with_differences: bool = True) -> str:
    """Explains the signs in some tables, and lists the configs that are not compared.

    `with_differences`: the tables have columns of differences.
    """
    results = [one for table in tables for row in table.rows for one in row.results.values()]
    sentences = []
    if any(not math.isnan(one.seeds.half) for one in results):
        sentences.append(
            "±: 95 % confidence interval of the mean over seeds (Student's t), with their standard "
            "deviation in brackets."
        )
    if any(one.difference is not None for one in results):
        if with_differences:
            sentences.append(
                f"Δ: difference from {baseline} for the same users, with its 95 % confidence "
                "interval (paired bootstrap)."
            )
        sentences.append(
            f"\\*: better, †: worse than {baseline} for the same users (paired bootstrap, "
            f"p < {LEVEL:g} with Holm's correction for the rows of a table)."
        )
        sentences += filter(None, [t_test_note(tables)])
    for table in tables:
        sentences += [f"Not compared in {table_title(table)}: {one}." for one in table.not_compared]
    return " ".join(sentences)


def t_test_note(tables: Sequence[Table]) -> str:
    """States if paired t-tests, with the same correction, agree with the bootstrap; "" without any.

    Metrics of labels have no t-test.
    """
    disagreements, tested = [], {}
    for table in tables:
        for metric in dict.fromkeys(name for row in table.rows for name in row.results):
            results = {row.config: row.results.get(metric) for row in table.rows}
            compared = {name: one for name, one in results.items() if one and one.difference}
            tests = {name: one.difference.p_t for name, one in compared.items() if one.difference}
            if tests:
                tested[metric] = not any(map(math.isnan, tests.values()))
            if not tested.get(metric):
                continue
            p = holm(tests)
            disagreements += [
                f"{metric} of {name} ({table_title(table)}, p = {p[name]:.2g})"
                for name, one in compared.items()
                if (p[name] < LEVEL) != (one.p < LEVEL)
            ]
    if disagreements:
        return f"Paired t-tests disagree on {', '.join(disagreements)}."
    rankings = "" if all(tested.values()) else " of ranking metrics"
    return f"Paired t-tests{rankings} agree." if any(tested.values()) else ""


MARKDOWN = re.compile(r"([\\`*\[\]<>|])")
LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "*": r"$^{*}$",
    "†": r"$^{\dagger}$",
    "Δ": r"$\Delta$",
}
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "|": r"\textbar{}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}"}


def escape_latex(text: str) -> str:
    """The text in one line, with the special characters of LaTeX escaped."""
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    # At the beginning of a row, [ would begin the height of the row before it.
    return f"{{[}}{escaped[1:]}" if escaped.startswith("[") else escaped


def latex(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """A `tabular` for each table, for the package booktabs, and the legend as a comment."""
    parts = []
    for table in tables:
        (head, *rows), numbers = table_cells(table, metrics)
        columns = "l" + "r" * numbers + "l" * (len(head) - numbers - 1)
        body = [" & ".join(map(escape_latex, row)) + r" \\" for row in rows]
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        lines += [" & ".join(map(escape_latex, head)) + r" \\", r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join([comment(table_title(table)), *lines]))
    return "\n\n".join([*parts, comment(legend(tables, baseline).replace("\\*", "*"))])


def comment(text: str) -> str:
    """The text as a comment of LaTeX, which ends with its line."""
    return f"% {' '.join(text.split())}"


def tables_to_json(tables: Sequence[Table], metrics: Sequence[str], baseline: str) -> str:
    """All numbers of the tables as JSON, which `read_tables` reads."""
    values = {
        "metrics": list(metrics),
        "baseline": baseline,
        "tables": [
            table._asdict() | {"rows": [row_values(row) for row in table.rows]} for table in tables
        ],
    }
    return json.dumps(finite(values), indent=1, allow_nan=False)


def row_values(row: Row) -> dict[str, Any]:
    """A row as dictionaries and lists."""
    results = {
        name: {
            "seeds": one.seeds._asdict(),
            "difference": None if one.difference is None else one.difference._asdict(),
            "p": one.p,
        }
        for name, one in row.results.items()
    }
    return row._asdict() | {"results": results}


def read_tables(path: pathlib.Path) -> tuple[list[Table], list[str], str]:
    """The tables, metrics and baseline in a file that `tables_to_json` has made.

    Raises ValueError for another file.
    """
    stored = read_json(path, object)
    if not isinstance(stored, dict) or not {"tables", "metrics", "baseline"} <= stored.keys():
        raise ValueError(
            f"{path} has no tables of a study: name the folder of a study, or the output of "
            "`clickflax study table DIR --format json`."
        )
    check_schema(
        path, stored, {"tables": [{str: object}], "metrics": [str], "baseline": str, str: object}
    )
    if not stored["tables"]:
        raise ValueError(f"{path} has no tables.")
    fields = [renamed(one, OLD_TABLE_KEYS) for one in stored["tables"]]
    check_schema(path, fields, [TABLE], "tables")
    for table in fields:
        for row in table["rows"]:
            values = row["results"].items()
            row["results"] = {name: renamed(one, OLD_RESULT_KEYS) for name, one in values}
            check_schema(path, row["results"], {str: RESULT}, "results")
    tables = [Table(**{**one, "rows": [read_row(row) for row in one["rows"]]}) for one in fields]
    return tables, stored["metrics"], stored["baseline"]


def read_row(fields: Mapping[str, Any]) -> Row:
    """Undoes `row_values`."""
    results = {name: read_result(one) for name, one in fields["results"].items()}
    values = {name: [nan_for_none(v) for v in some] for name, some in fields["values"].items()}
    return Row(**{**fields, "results": results, "values": values})


def read_result(fields: Mapping[str, Any]) -> Result:
    """The result of its JSON values, in which NaN is null."""
    difference = fields["difference"]
    return Result(
        Spread(*(nan_for_none(fields["seeds"][name]) for name in Spread._fields)),
        None
        if difference is None
        else Difference(*(nan_for_none(difference[name]) for name in Difference._fields)),
        nan_for_none(fields["p"]),
    )


def nan_for_none(value: float | None) -> float:
    """The value, NaN if it is None."""
    return math.nan if value is None else value


def renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The fields with old keys replaced by their new names."""
    return {names.get(key, key): value for key, value in fields.items()}


WRITERS = {"md": markdown, "latex": latex, "json": tables_to_json}
