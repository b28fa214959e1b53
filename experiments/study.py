"""Shared parts of the experiments: run a command, keep and read its record, format a table."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable

from clickflax.runtime.environment import CREATED_WITH, read_starts
from clickflax.study import statistics

HERE = pathlib.Path(__file__).resolve().parent
MACHINE = (*CREATED_WITH, "started")


def run_command(*words: str) -> dict:
    """Runs `clickflax WORDS` and returns the JSON object of its last line."""
    print("clickflax", *words, flush=True)
    call = [sys.executable, "-m", "clickflax.cli", *words]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_module(name: str, *words: str) -> dict:
    """Runs `python -m experiments.NAME WORDS` and returns the JSON object of its last line."""
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def parse_run_flags(
    doc: str | None, names: Iterable[str], records: pathlib.Path
) -> argparse.Namespace:
    """Flags of an experiment with several runs; without names on the command line, all of `names`.

    The first line of `doc` is the description, `records` the default of `--records`.
    """
    known = list(names)
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--records", type=pathlib.Path, default=records)
    flags = parser.parse_intermixed_args()  # names may follow the flags
    unknown = sorted(set(flags.names) - set(known))
    if unknown:
        parser.error(f"{unknown[0]} is not one of {', '.join(known)}")
    flags.names = flags.names or known
    return flags


def commits(records: list[dict]) -> str:
    """Abbreviated commits of the code that made the records."""
    hashes = (start["commit"] for record in records for start in read_starts(record["environment"]))
    return ", ".join(dict.fromkeys(commit[:7] for commit in hashes if commit))


def mean_and_interval(values: list[float], sign: str = "") -> str:
    """Mean ± 95 % interval as text; of a single value, the value alone.

    With `sign="+"` a positive mean has a sign, too.
    """
    spread = statistics.spread(values)
    interval = f" ± {spread.half:.4f}" if len(values) > 1 else ""
    return f"{spread.mean:{sign}.4f}{interval}"


def without_paths(record: dict) -> dict:
    """A record without the paths and the name of the machine."""
    record = dict(record)
    if "environment" in record:
        first, *later = read_starts(record["environment"])
        record["environment"] = {key: first[key] for key in (*MACHINE, "data")}
        if later:
            resumed = [{key: start[key] for key in MACHINE} for start in later]
            record["environment"]["resumed"] = resumed
    if "config" in record:
        path = pathlib.Path(record["config"]["data"]["path"]).name
        record["config"] = {**record["config"], "data": {**record["config"]["data"], "path": path}}
    return record | {
        name: pathlib.Path(record[name]).name for name in ("run", "data") if name in record
    }


def write_record(path: pathlib.Path, record: dict) -> None:
    """Writes a record as JSON, without paths of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_paths(record), indent=1) + "\n", encoding="utf-8")


def read_records(kind: str, pattern: str = "*") -> list[dict]:
    """Records in the folder `kind` whose name matches the pattern, in the order of their names."""
    paths = sorted((HERE / kind).glob(f"{pattern}.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def markdown(head: list[str], align: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, align, *rows])


def devices_of(environment: dict) -> str:
    """Devices of an environment as text, such as "2 cores" or "1 x NVIDIA H100"."""
    if environment["backend"] == "cpu":
        cores = environment["cores"]
        return f"{cores} core" + "s" * (cores > 1)
    return " + ".join(f"{n} x {kind}" for kind, n in environment["devices"].items())


def measured_on(environment: dict) -> str:
    """Devices, JAX version and day of a measurement as text."""
    cpu = f" of {environment['cpu']}" if environment["backend"] == "cpu" else ""
    day = environment["started"][:10]
    return f"{devices_of(environment)}{cpu}, JAX {environment['versions']['jax']}, {day}"
