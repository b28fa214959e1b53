"""Tables of README, docs/results.md and the pages in experiments/, made from the records.

    python experiments/table.py

A record of results is the one that `clickflax evaluate` writes into the run: metrics, protocol,
seconds, config, commit, machine. `speed.py --record` writes the records of speed.
"""

import argparse
import pathlib

from clickflax.study.table import WRITERS as STUDY_WRITERS
from clickflax.study.table import read_tables
from experiments import (
    devices,
    engines,
    fuzz,
    models,
    objectives,
    reliability,
    simulated,
    tasks,
    transfer,
)
from experiments.study import HERE, markdown, measured_on, read_records

BEGIN, END = "<!-- python experiments/table.py -->", "<!-- end of tables -->"


def speed_table(lines: list[dict]) -> str:
    """Table of the libraries that `speed.py` compared, and details of ours, the last line."""
    ours = lines[-1]

    def cells(line: dict) -> list[str]:
        rate = "train_rows_per_s" if "train_rows_per_s" in line else "train_sequences_per_s"
        ratio = ours.get(f"times_{line['peer'].split()[0]}")
        recommended = line.get("recommend_users_per_s")
        memory = line.get("peak_rss_mb")
        return [
            line["peer"],
            f"{1000 * line['step_s']:,.0f}",
            f"{line[rate]:,.0f}",
            f"{ratio:.1f} times" if ratio else "",
            f"{recommended:,.0f}" if recommended else "",
            f"{memory:,.0f}" if memory else "",
        ]

    head = ["", "a step, ms", "sequences (RecBole: rows) / s", "ours is"]
    head += ["recommending, users / s", "peak memory, MB"]
    facts = (
        f"Ours: {ours['train_tokens_per_s']:,} tokens/s, {ours['padding']:.1%} padding; "
        f"{ours['gflop_per_step']} GFLOP a step, {ours['share_of_peak']:.0%} of the "
        f"{ours['peak_gflops']:,.0f} GFLOP/s of a large matrix product here; evaluation "
        f"{ours['evaluate_users_per_s_first']:,.0f} users/s with compilation, "
        f"{ours['evaluate_users_per_s_then']:,.0f} without; recommending, without, "
        f"{ours['recommend_users_per_s_then']:,.0f}. Memory is that of the process on the host "
        f"up to its end; {ours['train_peak_mb']:,.0f} MB up to the end of our training."
    )
    return markdown(head, ["---", *["--:"] * 5], [cells(line) for line in lines]) + f"\n\n{facts}"


def start_up_text(line: dict) -> str:
    """Seconds of the import and of the first step, as a sentence."""
    return (
        f"`import clickflax` {line['import_s']} s; quick start, from the command to the end of the "
        f"first step: {line['first_step_cold_s']} s, {line['first_step_warm_s']} s when it has "
        "been compiled before."
    )


def speeds() -> str:
    """Tables of speed.md."""
    parts = []
    for record in read_records("speed"):
        line = record["lines"][-1]
        parts.append(f"### {record['title']} ({measured_on(record['environment'])})")
        parts.append(start_up_text(line) if "import_s" in line else speed_table(record["lines"]))
    return "\n\n".join(parts)


def summary() -> str:
    """Tables of README: the published models, and the best run of each data set."""
    note = (
        "NDCG@10 of the config in the last column: all items ranked, leave-one-out, seen items "
        "filtered; the config may differ from the preset in details."
    )
    return f"{models.family()}\n\n{note}\n\n{models.best()}"


def studies() -> str:
    """Tables of docs/results.md: the best run of each data set, and the study of objectives."""
    record = HERE / "objectives.json"
    parts = [models.best("../")]
    if record.is_file():
        tables, metrics, baseline = read_tables(record)
        parts += [objectives.answer(tables), STUDY_WRITERS["md"](tables, metrics, baseline)]
    return "\n\n".join(parts)


PAGES = {
    HERE.parent / "README.md": summary,
    HERE.parent / "docs" / "results.md": studies,
    HERE / "devices.md": devices.table,
    HERE / "engines.md": engines.table,
    HERE / "reliability.md": reliability.table,
    HERE / "fuzz.md": fuzz.table,
    HERE / "models.md": models.tables,
    HERE / "speed.md": speeds,
    HERE / "tasks.md": tasks.table,
    HERE / "simulated.md": simulated.table,
    HERE / "transfer.md": transfer.table,
}


def with_tables(page: pathlib.Path) -> str:
    """Text of a page, with today's tables between its marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{PAGES[page]()}\n\n{END}{after}"


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    for page in PAGES:
        page.write_text(with_tables(page), encoding="utf-8")


if __name__ == "__main__":
    main()
