"""What a preparation read, dropped and kept, for people."""

import pathlib

from rich.console import Console
from rich.table import Table


def print_report(info: dict, out: pathlib.Path) -> None:
    """Prints the counts of a dataset.json to standard output."""
    counts = info["counts"]
    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=f"{info['source']} in {out}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("events read", f"{counts['read']:,}")
    for reason, count in counts["dropped"].items():
        table.add_row(f"  dropped: {reason}", f"{count:,}")
    table.add_row("events kept", f"{counts['kept']:,}")
    table.add_row("sequences", f"{info['sequences']:,}")
    for name, variable in info["variables"].items():
        if variable["kind"] == "categorical":
            table.add_row(f"{name}: ids, 6 of them reserved", f"{variable['size']:,}")
        elif variable["kind"] == "numeric":
            table.add_row(f"{name}: mean ± deviation", "{mean:.4g} ± {std:.4g}".format(**variable))
    console.print(table)
    if counts.get("same_time"):
        console.print(
            f"{counts['same_time']:,} events share their time with another one of their sequence; "
            "these keep the order of the file."
        )
    for row in counts["bad_rows"]:
        console.print("skipped: {file}, line {line}: {reason} ({value!r})".format(**row))
    if counts["left_out"]:
        console.print(f"columns not taken up: {', '.join(counts['left_out'])}")
    console.print(f"fingerprint {info['fingerprint']}")
