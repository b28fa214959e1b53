"""Questions on a simulated shop: what was reached, what is possible, together and alone.

    clickflax simulate --out data/large_shop --sequences 1000000
    clickflax simulate --out data/thrifty --sequences 100000 --thrift 2
    python experiments/simulated.py --data data --runs runs      # what is not recorded yet
    python experiments/table.py                            # experiments/simulated.md

The questions of configs/shop_simulated.py are learned by one model, beside what is possible: the
shop's own probabilities, of the same test. Whether questions suffer from each other is asked of
shorter trainings: of all together, and of each alone. Records are kept as those of tasks.py.
"""

import json
import pathlib

import numpy as np
from study import HERE, clickflax, commits, keep, machine, markdown, records, spread, which_runs
from truth import beside

from clickflax.config.default import load
from clickflax.evaluation.record import record_name

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "simulated"
SHOP, GIVEN = CONFIGS / "shop_simulated.py", CONFIGS / "given_simulated.py"
METRICS = {"purchase": "auc", "returns": "auc", "next_item": "ndcg@10"}
SHORT = "train.steps=1000"  # to its end: a best checkpoint would be that of one of the questions
# What is trained, by name: its config, and what is changed in it.
LABEL = ["model.repeat=False", "data.validation_users=-1"]  # both are about items
RUNS = {"shop": (SHOP, []), "given": (GIVEN, []), "together": (SHOP, [SHORT])} | {
    name: (
        SHOP,
        [SHORT, f"tasks={name}", "task_weights=1.0", f"train.monitor={metric}"]
        + (LABEL if metric == "auc" else []),
    )
    for name, metric in METRICS.items()
}
CART = "action=cart"
# What is asked of it, by name: of which events, and what is told of them.
ASKS = {"given": {"cart": (CART, None), "cart, told": (CART, CART)}}


def run(name: str, seed: int, data: pathlib.Path, runs: pathlib.Path, to: pathlib.Path) -> None:
    """Trains and asks one model, if it is not recorded."""
    record, folder = to / f"{name}.{seed}.json", runs / f"simulated.{name}.{seed}"
    if record.is_file():
        return
    config, changes = RUNS[name]
    path = f"data.path={data / pathlib.Path(load(config).data.path).name}"
    knobs = [f"--config.{knob}" for knob in [path, f"seed={seed}", *changes]]
    clickflax("train", f"--config={config}", f"--workdir={folder}", *knobs)
    pairs, full = {}, {}
    for ask, (where, given) in ASKS.get(name, {"": (None, None)}).items():
        checkpoint = "last" if SHORT in changes else "best"
        flags = {"--run": str(folder), "--where": where, "--given": given}
        flags["--checkpoint"] = checkpoint
        clickflax("evaluate", *(f"{flag}={told}" for flag, told in flags.items() if told))
        told = record_name(where, given and (given,), checkpoint=checkpoint)
        file = folder / f"test{told}.json"
        for task, metrics in beside(file).items():
            pairs[ask or task] = metrics
        full = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: full[key] for key in ("train_seconds", "step", "environment")}
    keep(record, {"seed": seed, "pairs": pairs, **kept})


def metrics_of(run: str, ask: str, metric: str) -> dict[int, tuple[float, float]]:
    """By seed, what the runs of a name had, and what was possible."""
    found = records("simulated", f"{run}.*")
    return {record["seed"]: tuple(record["pairs"][ask][metric]) for record in found}


def possible(run: str, ask: str, name: str, metric: str) -> list[str] | None:
    """The line of a question, asked of the runs of one name; None where there is none yet."""
    found = list(metrics_of(run, ask, metric).values())
    if not found:
        return None
    runs = records("simulated", f"{run}.*")
    seconds = np.mean([record["train_seconds"] for record in runs])
    return [
        name,
        metric,
        f"{found[0][1]:.4f}",
        f"{spread([ours for ours, _ in found])} ({len(found)})",
        spread([ours - best for ours, best in found], "+"),
        f"{seconds:,.0f} s, {machine(runs[0]['environment'])}",
        commits(runs),
    ]


def together(task: str, metric: str) -> list[str] | None:
    """The line of a question that was learned with others, and alone."""
    both, alone = metrics_of("together", task, metric), metrics_of(task, task, metric)
    seeds = sorted(both.keys() & alone.keys())
    if not seeds:
        return None
    shown = [spread([runs[seed][0] for seed in seeds]) for runs in (both, alone)]
    less = spread([both[seed][0] - alone[seed][0] for seed in seeds], "+")
    return [task, metric, *shown, f"{less} ({len(seeds)})"]


def table() -> str:
    """All questions."""
    head = ["question", "metric", "possible", "clickflax, mean ± 95 % (seeds)", "from the possible"]
    head += ["training", "commit"]
    rows = [possible("shop", name, name, metric) for name, metric in METRICS.items()]
    rows += [possible("given", ask, f"next_item: {ask}", "ndcg@10") for ask in ASKS["given"]]
    align = ["---", "---", "--:", "--:", "--:", "---", "---"]
    first = markdown(head, align, [line for line in rows if line])
    head = ["question", "metric", "together", "alone", "together - alone (seeds)"]
    rows = [together(name, metric) for name, metric in METRICS.items()]
    second = markdown(head, ["---", "---", "--:", "--:", "--:"], [line for line in rows if line])
    return f"{first}\n\nTrained for 1,000 steps, all questions together and each alone:\n\n{second}"


def main() -> None:
    flags = which_runs(__doc__, RUNS, RECORDS)
    for seed in flags.seeds:
        for name in flags.names:
            run(name, seed, flags.data, flags.runs, flags.records)


if __name__ == "__main__":
    main()
