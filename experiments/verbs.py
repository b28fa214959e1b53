"""What studies share: a verb of clickflax in a process of its own, and a mean with its interval."""

import json
import subprocess
import sys

import numpy as np
import scipy.stats


def clickflax(*words: str) -> dict:
    """Runs a verb, and returns its last line."""
    print("clickflax", *words, flush=True)
    call = [sys.executable, "-m", "clickflax.cli", *words]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and the half-width of its 95 % interval by Student's t; NaN for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return float(np.mean(values)), float(half)
