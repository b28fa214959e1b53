"""DuckDB and Spark prepare the same log: seconds, and a comparison of every file.

    python experiments/engines.py --ml-1m RAW       # both logs, to engines.json
    python experiments/table.py                     # experiments/engines.md

Both run `clickflax prepare` on this machine with the same cores. RAW is the folder of
MovieLens-1M; prepare_scale.py generates the other log.
"""

import argparse
import filecmp
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from clickflax.runtime.environment import environment
from experiments.prepare_scale import COLUMNS, generate
from experiments.study import HERE, MACHINE, markdown, measured_on

RECORD = HERE / "engines.json"
ENGINES = ("duckdb", "pyspark")
SHOP = ("--columns", COLUMNS, "--k-core", "5", "--repeats", "merge", "--max-length", "200")


def prepared(
    source: str, raw: pathlib.Path, out: pathlib.Path, engine: str, *options: str
) -> float:
    """Prepares a log and returns the seconds of the command."""
    words = [sys.executable, "-m", "clickflax.cli", "prepare", source, f"--raw={raw}"]
    begin = time.perf_counter()
    words += [f"--out={out}", f"--engine={engine}", *options]
    subprocess.run(words, check=True, stdout=sys.stderr)
    return time.perf_counter() - begin


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Paths of all files below a folder, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def compared(name: str, source: str, raw: pathlib.Path, *options: str) -> dict:
    """Prepares a log with each engine and compares their files."""
    with tempfile.TemporaryDirectory() as scratch:
        outs = {engine: pathlib.Path(scratch, engine) for engine in ENGINES}
        seconds = {
            engine: round(prepared(source, raw, out, engine, *options), 1)
            for engine, out in outs.items()
        }
        one, other = outs.values()
        names = files(one)
        theirs = files(other)
        differ = [
            str(name)
            for name in sorted({*names, *theirs})
            if name not in names
            or name not in theirs
            or not filecmp.cmp(one / name, other / name, shallow=False)
        ]
        info = json.loads((one / "dataset.json").read_text(encoding="utf-8"))
        return {
            "log": name,
            "read": info["counts"]["read"],
            "kept": info["events"],
            "items": info["items"],
            "seconds": seconds,
            "files": len(names),
            "bytes": sum((one / name).stat().st_size for name in names),
            "differ": differ,
        }


def table() -> str:
    """Table of engines.md."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    rows = [
        [
            one["log"],
            f"{one['read']:,}",
            f"{one['kept']:,}",
            f"{one['items']:,}",
            *(f"{one['seconds'][engine]:,.0f} s" for engine in ENGINES),
            f"{one['files']} files, {one['bytes'] / 1e6:,.0f} MB: "
            + (f"{', '.join(one['differ'])} differ" if one["differ"] else "the same"),
        ]
        for one in record["logs"]
    ]
    head = ["", "events", "kept", "items", "DuckDB", "Spark", "what they made"]
    align = ["---", *["--:"] * 5, "---"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{versions}; {measured_on(record['environment'])}.\n\n{markdown(head, align, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ml-1m", type=pathlib.Path, required=True)
    parser.add_argument("--events", type=int, default=5_000_000)
    flags = parser.parse_args()
    about = environment("")
    logs = [compared("MovieLens-1M", "ml-1m", flags.ml_1m)]
    with tempfile.TemporaryDirectory() as scratch:
        log = pathlib.Path(scratch, "log.parquet")
        generate(log, flags.events, "text")
        logs.append(compared("a shop, text ids, 5-core", "log", log, *SHOP))
    record = {
        "logs": logs,
        "versions": {name: importlib.metadata.version(name) for name in ENGINES},
        "environment": {key: about[key] for key in MACHINE},
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
