"""The printed report of a preparation: rows read, dropped and kept."""

import pathlib

from rich.table import Table

from clickflax.batch import RESERVED
from clickflax.runtime.terminal import Console


def print_report(info: dict, out: str | pathlib.Path) -> None:
    """Prints the counts of a dataset.json to standard output."""
    counts = info["counts"]
    console = Console(soft_wrap=True)
    console.print(f"{info['source']} in {out}, fingerprint {info['fingerprint']}")
    if counts["read_as"]:
        console.print(f"read as {'; '.join(counts['read_as'])}")
    console.print(_counts_table(info))
    if "same_time" in counts:
        console.print(
            f"{counts['same_time']:,} of the events read share their time with another event of "
            "their sequence; such events keep the order of the file."
        )
    else:
        console.print("The log has no times: the events of a sequence keep the order of the file.")
    for row in counts["bad_rows"]:
        console.print("skipped {file}, line {line}: {reason} ({value!r})".format(**row))
    if counts["left_out"]:
        console.print(f"unused columns: {', '.join(counts['left_out'])}")
    for warning in counts["warnings"]:
        console.print(f"warning: {warning}")


def _counts_table(info: dict) -> Table:
    """Returns the counts and the variables of a dataset.json as a table."""
    counts = info["counts"]
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
            table.add_row(f"{name}: maximum values per event", f"{variable['width']:,}")
        if variable["kind"] == "numeric":
            table.add_row(
                f"{name}: mean ± standard deviation", "{mean:.4g} ± {std:.4g}".format(**variable)
            )
    if "with_features" in counts:
        table.add_row("items with features", f"{counts['with_features']:,} of {info['items']:,}")
    if "first_time" in counts:
        table.add_row("first time", counts["first_time"])
        table.add_row("last time", counts["last_time"])
    return table
