"""What a preparation read, dropped and kept, for people."""

import pathlib

from rich.console import Console
from rich.table import Table

from clickflax.batch import RESERVED


def print_report(info: dict, out: str | pathlib.Path) -> None:
    """Prints the counts of a dataset.json to standard output."""
    counts = info["counts"]
    # a path or a value must come out as it is: neither markup, nor wrapped
    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("events read", f"{counts['read']:,}")
    for reason, count in counts["dropped"].items():
        table.add_row(f"  dropped: {reason}", f"{count:,}")
    table.add_row("events kept", f"{counts['kept']:,}")
    table.add_row("sequences", f"{info['sequences']:,}")
    for name, variable in info["variables"].items():
        if "size" in variable:
            table.add_row(f"{name}: tokens", f"{variable['size'] - RESERVED:,}")
        if "width" in variable:
            table.add_row(f"{name}: values of an event, at most", f"{variable['width']:,}")
        if variable["kind"] == "numeric":
            table.add_row(f"{name}: mean ± deviation", "{mean:.4g} ± {std:.4g}".format(**variable))
    if "with_features" in counts:
        table.add_row("features", f"{counts['with_features']:,} of {info['items']:,} items")
    if "first_time" in counts:
        table.add_row("first time", counts["first_time"])
        table.add_row("last time", counts["last_time"])
    console.print(f"{info['source']} in {out}, fingerprint {info['fingerprint']}")
    console.print(table)
    if "same_time" in counts:
        console.print(
            f"{counts['same_time']:,} of the events read share their time with another one of "
            "their sequence; such events keep the order of the file."
        )
    else:
        console.print("There are no times: the events of a sequence keep the order of the file.")
    for row in counts["bad_rows"]:
        console.print("skipped {file}, line {line}: {reason} ({value!r})".format(**row))
    if counts["left_out"]:
        console.print(f"columns not taken up: {', '.join(counts['left_out'])}")
