"""Random and damaged inputs: each must be read right, or be refused by a clear error.

    python -m experiments.fuzz --seconds 600 --out experiments/fuzz.json
    python experiments/table.py                                                        # fuzz.md
    python -m experiments.fuzz --kind damaged_log --seed 17 --first 4711 --inputs 1    # one again

Logs of every source and format, the small files of data sets and runs, values of knobs, and what
`recommend` and `evaluate` are asked. An input is a failure if it ends in a traceback, in the raw
words of a library, or in a data set that does not account for each row. The record has the number
of inputs of each kind, how many were right and how many refused, and the failures.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

from clickflax.runtime.environment import environment
from experiments.fuzzing.files import FILE_KINDS
from experiments.fuzzing.logs import damaged_log, whole_log
from experiments.fuzzing.sources import damaged_source
from experiments.fuzzing.values import VALUE_KINDS
from experiments.study import HERE, MACHINE, markdown, measured_on

Kind = Callable[[random.Random, pathlib.Path], str | None]
# Each kind with its share of the inputs.
KINDS: dict[str, tuple[Kind, int]] = {
    "whole_log": (whole_log, 1),
    "damaged_log": (damaged_log, 2),
    "damaged_source": (damaged_source, 1),
    **FILE_KINDS,
    **VALUE_KINDS,
}
# What libraries and Python say, and clickflax never should.
RAW_WORDS = re.compile(
    r"DuckDB: |Error: |Error\(|Traceback|Binder|Catalog Error|Conversion|object is not|"
    r"has no attribute|invalid literal|could not convert|index out of range|out of bounds|"
    r"codec can't|unsupported operand|must be str|NoneType|dict_keys|<class '|0x[0-9a-f]{9}|"
    r"not iterable|unpack|expected str|positional argument"
)
RECORD = HERE / "fuzz.json"
LISTED = 50  # failures in the record


def judge(kind: Kind, chance: random.Random, folder: pathlib.Path) -> tuple[str, str]:
    """Gives one input to clickflax: right, refused or failure, and the reason."""
    try:
        problem = kind(chance, folder)
    except (ValueError, OSError, FloatingPointError) as error:
        message = str(error)
        if not message.strip() or RAW_WORDS.search(message):
            return "failure", f"{type(error).__name__}: {message:.500}\n{_last_frames(error)}"
        return "refused", message
    except Exception as error:
        return "failure", f"{type(error).__name__}: {str(error):.500}\n{_last_frames(error)}"
    return ("failure", problem) if problem else ("right", "")


def _last_frames(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return "; ".join(f"{pathlib.Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)


def fuzz(
    kinds: dict[str, tuple[Kind, int]], seed: int, first: int, inputs: int | None, seconds: float
) -> dict:
    """Tries inputs for some seconds, or so many, and returns the record."""
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in kinds}
    failures = []
    names = [name for name, (_, share) in kinds.items() for _ in range(share)]
    folder = pathlib.Path(tempfile.mkdtemp())
    begun = time.perf_counter()
    number = first
    shown = begun
    try:
        while time.perf_counter() - begun < seconds and (inputs is None or number < first + inputs):
            name = names[number % len(names)]
            outcome, reason = judge(kinds[name][0], random.Random(f"{seed} {number}"), folder)
            counts[name][outcome] += 1
            if outcome == "failure":
                failures.append({"kind": name, "input": number, "reason": reason})
                print(f"{name} {number}: {reason}", file=sys.stderr, flush=True)
            number += 1
            if time.perf_counter() - shown > 60:
                shown = time.perf_counter()
                done = number - first
                print(f"{done:,} inputs, {len(failures)} failures", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    about = environment("")
    return {
        "seed": seed,
        "first": first,
        "seconds": round(time.perf_counter() - begun, 1),
        "inputs": number - first,
        "failures": len(failures),
        "kinds": {name: dict(count) for name, count in counts.items()},
        "listed": failures[:LISTED],
        "environment": {key: about[key] for key in MACHINE},
    }


def table() -> str:
    """Text of fuzz.md: the inputs of the record by kind."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    outcomes = ("right", "refused", "failure")
    rows = [
        [name.replace("_", " "), *(f"{counts.get(one, 0):,}" for one in outcomes)]
        for name, counts in record["kinds"].items()
    ]
    head = ["kind of input", "right", "refused", "failures"]
    return (
        f"{record['inputs']:,} inputs in {record['seconds']:,.0f} s, {record['failures']} failures "
        f"({measured_on(record['environment'])}).\n\n"
        + markdown(head, ["---", "--:", "--:", "--:"], rows)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--inputs", type=int, help="stop after so many inputs")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--out", type=pathlib.Path, help="file of the record")
    flags = parser.parse_args()
    kinds = {name: KINDS[name] for name in flags.kind or KINDS}
    record = fuzz(kinds, flags.seed, flags.first, flags.inputs, flags.seconds)
    text = json.dumps(record, indent=1)
    if flags.out:
        flags.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
