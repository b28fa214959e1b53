"""Questions on a simulated shop: what was reached, what is possible, together and alone.

    clickflax simulate --out data/large_shop --sequences 400000
    clickflax simulate --out data/thrifty --sequences 100000 --thrift 2
    python experiments/simulated.py --data data --runs runs      # what is not recorded yet
    python experiments/table.py write                            # experiments/simulated.md

The questions of configs/shop_simulated.py are learned together by one model, and each by a model of
its own that is trained as long on it. What is possible is the shop's own probabilities, of the same
test. Records are kept in the folder `--records`, as of tasks.py.
"""

import argparse
import json
import pathlib

from study import HERE, clickflax, interval, keep, machine, markdown, records
from truth import beside

from clickflax.config import load
from clickflax.evaluate import record_name

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "simulated"
SHOP, GIVEN = CONFIGS / "shop_simulated.py", CONFIGS / "given_simulated.py"
METRICS = {"purchase": "auc", "returns": "auc", "next_item": "ndcg@10"}
TOGETHER = "together"
# What is trained, by name: its config, and what is changed in it.
RUNS = {TOGETHER: (SHOP, []), "given": (GIVEN, [])} | {
    name: (SHOP, [f"tasks={name}", f"train.monitor={metric}"]) for name, metric in METRICS.items()
}
CART = "action=cart"
# What is asked of it, by name: of which events, and what is told of them.
ASKS = {"given": {"cart": (CART, None), "cart, told": (CART, CART)}}


def run(name: str, seed: int, data: pathlib.Path, runs: pathlib.Path, kept: pathlib.Path) -> None:
    """Trains and asks one model, if it is not recorded."""
    record, folder = kept / f"{name}.{seed}.json", runs / f"simulated.{name}.{seed}"
    if record.is_file():
        return
    config, changes = RUNS[name]
    path = f"data.path={data / pathlib.Path(load(config).data.path).name}"
    knobs = [f"--config.{knob}" for knob in [path, f"seed={seed}", *changes]]
    clickflax("train", f"--config={config}", f"--workdir={folder}", *knobs)
    pairs, full = {}, {}
    for ask, (where, given) in ASKS.get(name, {"": (None, None)}).items():
        flags = {"--run": str(folder), "--where": where, "--given": given}
        clickflax("evaluate", *(f"{flag}={told}" for flag, told in flags.items() if told))
        told = record_name(where, given and (given,))
        file = folder / f"test{told}.json"
        for task, metrics in beside(file).items():
            pairs[ask or task] = metrics
        full = json.loads(file.read_text(encoding="utf-8"))
    keep(record, {"pairs": pairs, **{key: full[key] for key in ("train_seconds", "environment")}})


def row(name: str, run: str, ask: str, metric: str) -> list[str] | None:
    """The line of a question, asked of the runs of one name; None where there is none yet."""
    told = [record["pairs"][ask][metric] for record in records("simulated", f"{run}.[0-9]")]
    alone = [
        record["pairs"][ask][metric]
        for record in records("simulated", f"{ask}.[0-9]")
        if run == TOGETHER
    ]
    if not told:
        return None
    first = records("simulated", f"{run}.[0-9]")[0]
    ours, half = interval([one for one, _ in told])
    gap, gaps = interval([one - best for one, best in told])
    cells = [name, metric, f"{told[0][1]:.4f}", f"{ours:.4f} ± {half:.4f} ({len(told)})"]
    cells += [f"{gap:+.4f} ± {gaps:.4f}"]
    if alone:
        mean, spread = interval([one for one, _ in alone])
        more, mores = interval([a[0] - b[0] for a, b in zip(told, alone, strict=True)])
        cells += [f"{mean:.4f} ± {spread:.4f}", f"{more:+.4f} ± {mores:.4f}"]
    else:
        cells += ["", ""]
    seconds = f"{first['train_seconds']:,.0f} s, {machine(first['environment'])}"
    return [*cells, seconds, first["environment"]["commit"][:7]]


def table() -> str:
    """All questions."""
    head = ["question", "metric", "possible", "clickflax, mean ± 95 % (seeds)", "to the possible"]
    head += ["alone", "together - alone", "training", "commit"]
    align = ["---", "---", "--:", "--:", "--:", "--:", "--:", "---", "---"]
    rows = [row(name, TOGETHER, name, metric) for name, metric in METRICS.items()]
    rows += [row(f"next_item: {ask}", "given", ask, "ndcg@10") for ask in ASKS["given"]]
    return markdown(head, align, [line for line in rows if line])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--records", type=pathlib.Path, default=RECORDS)
    flags = parser.parse_intermixed_args()
    unknown = sorted(set(flags.names) - RUNS.keys())
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(RUNS)}")
    for seed in flags.seeds:
        for name in flags.names or RUNS:
            run(name, seed, flags.data, flags.runs, flags.records)


if __name__ == "__main__":
    main()
