"""What studies share: to run a verb of clickflax, to keep its record, to show means in a table."""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable

from clickflax.runtime.environment import CREATED_WITH, read_starts
from clickflax.study import statistics

HERE = pathlib.Path(__file__).resolve().parent
MACHINE = (*CREATED_WITH, "started")


def clickflax(*words: str) -> dict:
    """Runs a verb, and returns its last line."""
    print("clickflax", *words, flush=True)
    call = [sys.executable, "-m", "clickflax.cli", *words]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def which_runs(doc: str | None, names: Iterable[str], records: pathlib.Path) -> argparse.Namespace:
    """The flags of a study: the names of its runs, all of `names` by default, and their places."""
    known = list(names)
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--records", type=pathlib.Path, default=records)
    flags = parser.parse_intermixed_args()  # names may stand after the flags
    unknown = sorted(set(flags.names) - set(known))
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(known)}")
    flags.names = flags.names or known
    return flags


def commits(records: list[dict]) -> str:
    """The commits of some records."""
    known = (start["commit"][:7] for one in records for start in read_starts(one["environment"]))
    return ", ".join(dict.fromkeys(known))


def spread(values: list[float], sign: str = "") -> str:
    """A mean and its interval in words, "+" has it signed in any case; a single value is alone."""
    found = statistics.spread(values)
    return f"{found.mean:{sign}.4f}" + (f" ± {found.half:.4f}" if len(values) > 1 else "")


def without_places(record: dict) -> dict:
    """A record without what tells of its place on the machine."""
    record = dict(record)
    if "environment" in record:
        told, *later = read_starts(record["environment"])
        record["environment"] = {key: told[key] for key in (*MACHINE, "data")}
        if later:
            record["environment"]["resumed"] = [{key: one[key] for key in MACHINE} for one in later]
    if "config" in record:
        path = pathlib.Path(record["config"]["data"]["path"]).name
        record["config"] = {**record["config"], "data": {**record["config"]["data"], "path": path}}
    return record | {
        name: pathlib.Path(record[name]).name for name in ("run", "data") if name in record
    }


def keep(path: pathlib.Path, record: dict) -> None:
    """Writes a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_places(record), indent=1) + "\n", encoding="utf-8")


def records(kind: str, pattern: str = "*") -> list[dict]:
    """All that are kept of one kind and have such a name, in the order of the names."""
    paths = sorted((HERE / kind).glob(f"{pattern}.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def markdown(head: list[str], align: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, align, *rows])


def machine(environment: dict) -> str:
    """What the devices were."""
    if environment["backend"] == "cpu":
        cores = environment["cores"]
        return f"{cores} core" + "s" * (cores > 1)
    return " + ".join(f"{n} x {kind}" for kind, n in environment["devices"].items())


def sat(environment: dict) -> str:
    """Where and when something was timed."""
    cpu = f" of {environment['cpu']}" if environment["backend"] == "cpu" else ""
    day = environment["started"][:10]
    return f"{machine(environment)}{cpu}, JAX {environment['versions']['jax']}, {day}"
