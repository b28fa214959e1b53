"""Time and memory of `clickflax prepare` on a large log, as one JSON line.

    python experiments/prepare_scale.py --events 100000000

The script generates a log of shop events (ordered by time, with skewed frequencies of users and
products), prepares it in a separate process, and deletes it. Unknown flags are passed on to
`clickflax prepare`. Measured on two cores of an Intel Xeon with DuckDB 2.0.0, 100 million events
from Parquet: 80 s and 2,252 MB; with `--k-core 5 --repeats merge --max-length 200` on busy cores:
153 s and 2,259 MB.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import duckdb

COLUMNS = "sequence=user,time=timestamp,item=product,action=action,price=price:numeric"
ACTIONS = ["view", "view", "view", "view", "cart", "buy"]
FORMATS = {"parquet": "FORMAT parquet", "csv": "FORMAT csv, HEADER"}
PREFIXES = {"whole": "", "text": "'id-' || "}


def generate(path: pathlib.Path, events: int, tokens: str) -> None:
    """Writes a log of `events` rows: a user per 100, a product per 200, six actions, prices."""
    token = PREFIXES[tokens]
    with duckdb.connect(config={"memory_limit": "2GB", "preserve_insertion_order": "true"}) as con:
        con.execute("SET enable_progress_bar = false")
        con.execute(f"SET temp_directory = '{path.parent}'")
        con.execute(
            f"""
            COPY (
                SELECT
                    {token} (pow(hash(n) / pow(2, 64), 1.5) * {events} / 100)::BIGINT AS user,
                    1700000000 + n * 30000000 // {events} AS timestamp,
                    {token} (pow(hash(n + 1e9::BIGINT) / pow(2, 64), 3) * {events} / 200)::BIGINT
                        AS product,
                    {ACTIONS}[1 + (hash(n + 2e9::BIGINT) % {len(ACTIONS)})::INT] AS action,
                    (hash(n + 3e9::BIGINT) % 10000) / 100 AS price
                FROM range({events}) AS rows(n)
            ) TO '{path}' ({FORMATS[path.suffix[1:]]})
            """
        )


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident memory, in MB, of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - start
    # Kilobytes on Linux; the command is the only child so far.
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time and memory of `clickflax prepare` on a large log."
    )
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--form", choices=sorted(FORMATS), default="parquet")
    parser.add_argument("--tokens", choices=sorted(PREFIXES), default="whole")
    parser.add_argument("--folder", type=pathlib.Path, help="where to write (default: temporary)")
    flags, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        log, out = pathlib.Path(folder, f"log.{flags.form}"), pathlib.Path(folder, "prepared")
        generate(log, flags.events, flags.tokens)
        command = [sys.executable, "-m", "clickflax.cli", "prepare", "log", "--raw", str(log)]
        command += ["--columns", COLUMNS, "--out", str(out), *options]
        seconds, megabytes = measure(command)
        info = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        size = log.stat().st_size
    result = {
        "events": flags.events,
        "seconds": round(seconds, 1),
        "peak_rss_mb": round(megabytes),
        "form": flags.form,
        "tokens": flags.tokens,
        "options": options,
        "kept": info["counts"]["kept"],
        "sequences": info["sequences"],
        "items": info["items"],
        "log_mb": round(size / 1e6),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("duckdb", "ibis-framework", "pyarrow", "numpy")
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
