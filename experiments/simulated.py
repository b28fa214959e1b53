"""Tasks on a simulated shop, compared with the best possible predictions.

    clickflax simulate --out data/large_shop --sequences 1000000
    clickflax simulate --out data/thrifty --sequences 100000 --thrift 2
    python experiments/simulated.py --data data --runs runs      # all runs without a record
    python experiments/table.py                            # experiments/simulated.md

One model learns all tasks of configs/shop_simulated.py. The best possible predictions are the true
probabilities of the shop, for the same test. Shorter trainings of all tasks together and of each
task alone show the cost of sharing a model. tasks.py describes where records go.
"""

import json
import pathlib

import numpy as np

from clickflax.config.default import load
from clickflax.evaluation.request import EvalRequest
from experiments.study import (
    HERE,
    commits,
    devices_of,
    markdown,
    mean_and_interval,
    parse_run_flags,
    read_records,
    run_command,
    write_record,
)
from experiments.truth import compare_with_truth

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "simulated"
SHOP, GIVEN = CONFIGS / "shop_simulated.py", CONFIGS / "given_simulated.py"
METRICS = {"purchase": "auc", "returns": "auc", "next_item": "ndcg@10"}
SHORT = "train.steps=1000"  # evaluated at its end: the best checkpoint is that of one task only
# Runs by name: config and changed knobs.
LABEL = ["model.repeat=False", "data.validation_users=-1"]  # knobs of items
RUNS = {"shop": (SHOP, []), "given": (GIVEN, []), "together": (SHOP, [SHORT])} | {
    name: (
        SHOP,
        [SHORT, f"tasks={name}", "task_weights=1.0", f"train.monitor={metric}"]
        + (LABEL if metric == "auc" else []),
    )
    for name, metric in METRICS.items()
}
CART = "action=cart"
# Evaluations of a run by name: --where and --given.
EVALUATIONS = {"given": {"cart": (CART, None), "cart, told": (CART, CART)}}


def run(name: str, seed: int, data: pathlib.Path, runs: pathlib.Path, to: pathlib.Path) -> None:
    """Trains and evaluates one run, unless it has a record."""
    record, folder = to / f"{name}.{seed}.json", runs / f"simulated.{name}.{seed}"
    if record.is_file():
        return
    config, changes = RUNS[name]
    path = f"data.path={data / pathlib.Path(load(config).data.path).name}"
    knobs = [f"--config.{knob}" for knob in [path, f"seed={seed}", *changes]]
    run_command("train", f"--config={config}", f"--workdir={folder}", *knobs)
    pairs, full = {}, {}
    for evaluation, (where, given) in EVALUATIONS.get(name, {"": (None, None)}).items():
        checkpoint = "last" if SHORT in changes else "best"
        flags = {"--run": str(folder), "--where": where, "--given": given}
        flags["--checkpoint"] = checkpoint
        run_command("evaluate", *(f"{flag}={value}" for flag, value in flags.items() if value))
        request = EvalRequest(where=where, given=given and (given,), checkpoint=checkpoint)
        file = folder / f"test{request.suffix()}.json"
        for task, metrics in compare_with_truth(file).items():
            pairs[evaluation or task] = metrics
        full = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: full[key] for key in ("train_seconds", "step", "environment")}
    write_record(record, {"seed": seed, "pairs": pairs, **kept})


def metrics_of(run: str, evaluation: str, metric: str) -> dict[int, tuple[float, float]]:
    """Measured and best possible metric of each seed."""
    found = read_records("simulated", f"{run}.*")
    return {record["seed"]: tuple(record["pairs"][evaluation][metric]) for record in found}


def possible(run: str, evaluation: str, name: str, metric: str) -> list[str] | None:
    """Row of a task, compared with the best possible; None without a record."""
    found = list(metrics_of(run, evaluation, metric).values())
    if not found:
        return None
    runs = read_records("simulated", f"{run}.*")
    seconds = np.mean([record["train_seconds"] for record in runs])
    return [
        name,
        metric,
        f"{found[0][1]:.4f}",
        f"{mean_and_interval([ours for ours, _ in found])} ({len(found)})",
        mean_and_interval([ours - best for ours, best in found], "+"),
        f"{seconds:,.0f} s, {devices_of(runs[0]['environment'])}",
        commits(runs),
    ]


def together(task: str, metric: str) -> list[str] | None:
    """Row of a task that was learned with the other tasks, and alone; None without records."""
    both, alone = metrics_of("together", task, metric), metrics_of(task, task, metric)
    seeds = sorted(both.keys() & alone.keys())
    if not seeds:
        return None
    shown = [mean_and_interval([runs[seed][0] for seed in seeds]) for runs in (both, alone)]
    less = mean_and_interval([both[seed][0] - alone[seed][0] for seed in seeds], "+")
    return [task, metric, *shown, f"{less} ({len(seeds)})"]


def table() -> str:
    """Tables of simulated.md."""
    head = ["task", "metric", "best possible", "clickflax, mean ± 95 % (seeds)", "difference"]
    head += ["training", "commit"]
    rows = [possible("shop", name, name, metric) for name, metric in METRICS.items()]
    rows += [
        possible("given", name, f"next_item: {name}", "ndcg@10") for name in EVALUATIONS["given"]
    ]
    align = ["---", "---", "--:", "--:", "--:", "---", "---"]
    first = markdown(head, align, [line for line in rows if line])
    head = ["task", "metric", "together", "alone", "together - alone (seeds)"]
    rows = [together(name, metric) for name, metric in METRICS.items()]
    second = markdown(head, ["---", "---", "--:", "--:", "--:"], [line for line in rows if line])
    return f"{first}\n\nTrained for 1,000 steps, all tasks together and each alone:\n\n{second}"


def main() -> None:
    flags = parse_run_flags(__doc__, RUNS, RECORDS)
    for seed in flags.seeds:
        for name in flags.names:
            run(name, seed, flags.data, flags.runs, flags.records)


if __name__ == "__main__":
    main()
