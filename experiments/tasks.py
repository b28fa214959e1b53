"""All tasks on real logs: three seeds, compared with baselines.

    python experiments/tasks.py --data data --runs runs            # all runs without a record
    python experiments/tasks.py --data data --runs runs next_taobao --seeds 0
    python experiments/table.py                              # experiments/tasks.md

Each task is a config of `configs/`. Its data set is in the folder `--data`, under the last part of
the config's `data.path`. Every training, evaluation and baseline is a clickflax command in its own
process. Records go to the folder `--records`, by default experiments/tasks/, which table.py reads.
"""

import json
import pathlib

import numpy as np

from clickflax.config.default import load
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

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "tasks"
# Evaluations of a run by name: flags of `clickflax evaluate`.
BUY = ["--where", "action=buy"]
EVALUATIONS = {
    "next_taobao": {"": [], "of purchases": BUY, "given buy": [*BUY, "--given", "action=buy"]},
    "next_retailrocket": {
        "": [],
        "of purchases": BUY,
        "given buy": [*BUY, "--given", "action=buy"],
    },
}
RATES = "*_rate*"  # features of the baselines: the mean training label of a value
WITH_FEATURES = ("trees", "linear")
TASKS = {
    "purchase_taobao": "auc",
    "purchase_retailrocket": "auc",
    "purchase_tmall": "auc",
    "returns_online_retail": "auc",
    "basket_online_retail": "ndcg@10",
    "next_taobao": "ndcg@10",
    "next_retailrocket": "ndcg@10",
}


def run(
    name: str, seeds: list[int], data: pathlib.Path, runs: pathlib.Path, kept: pathlib.Path
) -> None:
    """Trains and evaluates one task and its baselines, except for what has a record."""
    config = CONFIGS / f"{name}.py"
    path = f"--config.data.path={data / pathlib.Path(load(config).data.path).name}"
    for seed in seeds:
        record = kept / f"{name}.{seed}.json"
        if record.is_file():
            continue
        folder = runs / f"{name}.{seed}"
        run_command(
            "train",
            f"--config={config}",
            f"--workdir={folder}",
            path,
            f"--config.seed={seed}",
        )
        evaluations = {
            evaluation: run_command("evaluate", "--run", str(folder), *flags)
            for evaluation, flags in EVALUATIONS.get(name, {"": []}).items()
        }  # the evaluation without flags writes test.json
        full = json.loads((folder / "test.json").read_text(encoding="utf-8"))
        metrics = {
            evaluation: {k: value for k, value in one.items() if isinstance(value, int | float)}
            for evaluation, one in evaluations.items()
        }
        write_record(record, {**full, "asks": metrics})
    for evaluation, flags in EVALUATIONS.get(name, {"": []}).items():
        record = kept / f"{baselines_name(name, evaluation)}.json"
        if "--given" in flags or record.is_file():
            continue  # baselines have no conditions
        where = [f"--config.task_where={condition}" for condition in flags[1:]]
        write_record(record, run_command("baselines", f"--config={config}", path, *where))
    record = kept / f"{name}.without.json"
    if TASKS[name] == "auc" and not record.is_file():
        write_record(
            record, run_command("baselines", f"--config={config}", path, "--without", RATES)
        )


def baselines_name(name: str, evaluation: str) -> str:
    """Name of the record of the baselines of an evaluation."""
    return f"{name}.baselines" + (f".{evaluation.replace(' ', '_')}" if evaluation else "")


def row(name: str, evaluation: str, metric: str) -> list[str] | None:
    """Row of an evaluation; None without a record."""
    runs = read_records("tasks", f"{name}.[0-9]*")
    if not runs:
        return None
    ours = mean_and_interval([one["asks"][evaluation][metric] for one in runs])
    plain = "of purchases" if evaluation == "given buy" else evaluation
    baselines = {}
    for record in read_records("tasks", baselines_name(name, plain)):
        baselines = {n: one[metric] for n, one in record["baselines"].items() if n != "constant"}
    first = runs[0]
    metrics = first["asks"][evaluation]
    count = metrics.get("labels", metrics.get("examples", metrics.get("questions")))
    seconds = np.mean([one["train_seconds"] for one in runs])
    return [
        f"[{name}](../configs/{name}.py){', ' + evaluation if evaluation else ''}",
        f"{count:,}",
        metric,
        f"{ours} ({len(runs)})",
        ", ".join(f"{n} {value:.4f}" for n, value in baselines.items()),
        f"{seconds:,.0f} s, {devices_of(first['environment'])}",
        commits(runs),
    ]


def without(name: str) -> list[str] | None:
    """Row of the baselines with and without the features RATES; None without records."""
    both = [*read_records("tasks", f"{name}.baselines"), *read_records("tasks", f"{name}.without")]
    if len(both) < 2:
        return None
    full, less = (one["baselines"] for one in both)
    shown = [f"{full[model]['auc']:.4f} → {less[model]['auc']:.4f}" for model in WITH_FEATURES]
    ours = mean_and_interval([one["auc"] for one in read_records("tasks", f"{name}.[0-9]*")])
    return [name, *shown, ours]


def table() -> str:
    """Tables of tasks.md: all tasks, and the ablation of the features RATES."""
    head = ["task", "examples", "metric", "clickflax, mean ± 95 % (seeds)", "baselines"]
    head += ["training", "commit"]
    align = ["---", "--:", "---", "--:", "---", "---", "---"]
    rows = [
        row(name, evaluation, metric)
        for name, metric in TASKS.items()
        for evaluation in EVALUATIONS.get(name, [""])
    ]
    first = markdown(head, align, [line for line in rows if line])
    head = ["auc", *(f"{model} → without" for model in WITH_FEATURES), "clickflax"]
    rows = [without(name) for name in TASKS]
    second = markdown(head, ["---", "--:", "--:", "--:"], [line for line in rows if line])
    between = f"AUC with all features → without the mean label of each value (`{RATES}`):"
    return f"{first}\n\n{between}\n\n{second}"


def main() -> None:
    flags = parse_run_flags(__doc__, TASKS, RECORDS)
    for name in flags.names:
        run(name, flags.seeds, flags.data, flags.runs, flags.records)


if __name__ == "__main__":
    main()
