"""Every question on real logs: three seeds, beside what one would try first.

    python experiments/tasks.py --data data --runs runs            # what is not recorded yet
    python experiments/tasks.py --data data --runs runs next_taobao --seeds 0
    python experiments/table.py                              # experiments/tasks.md

Each question is a config of `configs/`, whose data set lies in the folder `--data` under the name
that its path has. Every run, evaluation and baseline is the command of clickflax in a process of
its own; what these record is kept in the folder `--records`. Where that is `experiments/tasks/`, as
for the table, the checkout is no longer the commit that the next run names: copy it there later.
"""

import json
import pathlib

import numpy as np
from study import HERE, clickflax, commits, keep, machine, markdown, records, spread, which_runs

from clickflax.config.default import load

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "tasks"
# What is asked of each run, by name: the flags of `clickflax evaluate`.
BUY = ["--where", "action=buy"]
ASKS = {
    "next_taobao": {"": [], "of purchases": BUY, "given buy": [*BUY, "--given", "action=buy"]},
    "next_retailrocket": {
        "": [],
        "of purchases": BUY,
        "given buy": [*BUY, "--given", "action=buy"],
    },
}
RATES = "*_rate*"  # features of the baselines: the mean label of a value in the training
WITH_FEATURES = ("trees", "linear")
QUESTIONS = {
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
    """Trains, evaluates and compares one question, as far as it is not recorded."""
    config = CONFIGS / f"{name}.py"
    path = f"--config.data.path={data / pathlib.Path(load(config).data.path).name}"
    for seed in seeds:
        record = kept / f"{name}.{seed}.json"
        if record.is_file():
            continue
        folder = runs / f"{name}.{seed}"
        clickflax(
            "train",
            f"--config={config}",
            f"--workdir={folder}",
            path,
            f"--config.seed={seed}",
        )
        told = {
            ask: clickflax("evaluate", "--run", str(folder), *flags)
            for ask, flags in ASKS.get(name, {"": []}).items()
        }  # the plain question, without flags, is kept in test.json
        full = json.loads((folder / "test.json").read_text(encoding="utf-8"))
        metrics = {
            ask: {key: value for key, value in one.items() if isinstance(value, int | float)}
            for ask, one in told.items()
        }
        keep(record, {**full, "asks": metrics})
    for ask, flags in ASKS.get(name, {"": []}).items():
        record = kept / f"{name}.baselines{'.' + ask.replace(' ', '_') if ask else ''}.json"
        if "--given" in flags or record.is_file():
            continue  # no baseline can be told anything
        where = [f"--config.task_where={condition}" for condition in flags[1:]]
        keep(record, clickflax("baselines", f"--config={config}", path, *where))
    record = kept / f"{name}.without.json"
    if QUESTIONS[name] == "auc" and not record.is_file():
        keep(record, clickflax("baselines", f"--config={config}", path, "--without", RATES))


def row(name: str, ask: str, metric: str) -> list[str] | None:
    """The line of a question; None where there is no run yet."""
    runs = records("tasks", f"{name}.[0-9]*")
    if not runs:
        return None
    ours = spread([one["asks"][ask][metric] for one in runs])
    plain = "of purchases" if ask == "given buy" else ask
    kept = f"{name}.baselines{'.' + plain.replace(' ', '_') if plain else ''}"
    beside = {}
    for record in records("tasks", kept):
        beside = {n: one[metric] for n, one in record["baselines"].items() if n != "constant"}
    first = runs[0]
    asked = first["asks"][ask]
    count = asked.get("labels", asked.get("questions"))
    seconds = np.mean([one["train_seconds"] for one in runs])
    return [
        f"[{name}](../configs/{name}.py){', ' + ask if ask else ''}",
        f"{count:,}",
        metric,
        f"{ours} ({len(runs)})",
        ", ".join(f"{n} {value:.4f}" for n, value in beside.items()),
        f"{seconds:,.0f} s, {machine(first['environment'])}",
        commits(runs),
    ]


def without(name: str) -> list[str] | None:
    """What the baselines of a question are without RATES, beside them; None without records."""
    both = [*records("tasks", f"{name}.baselines"), *records("tasks", f"{name}.without")]
    if len(both) < 2:
        return None
    full, less = (one["baselines"] for one in both)
    shown = [f"{full[model]['auc']:.4f} → {less[model]['auc']:.4f}" for model in WITH_FEATURES]
    ours = spread([one["auc"] for one in records("tasks", f"{name}.[0-9]*")])
    return [name, *shown, ours]


def table() -> str:
    """All questions, and what the rates are worth to the baselines of labels."""
    head = ["question", "asked", "metric", "clickflax, mean ± 95 % (seeds)", "baselines"]
    head += ["training", "commit"]
    align = ["---", "--:", "---", "--:", "---", "---", "---"]
    rows = [
        row(name, ask, metric) for name, metric in QUESTIONS.items() for ask in ASKS.get(name, [""])
    ]
    first = markdown(head, align, [line for line in rows if line])
    head = ["auc", *(f"{model} → without" for model in WITH_FEATURES), "clickflax"]
    rows = [without(name) for name in QUESTIONS]
    second = markdown(head, ["---", "--:", "--:", "--:"], [line for line in rows if line])
    between = f"The same with all features → without the mean labels of values (`{RATES}`):"
    return f"{first}\n\n{between}\n\n{second}"


def main() -> None:
    flags = which_runs(__doc__, QUESTIONS, RECORDS)
    for name in flags.names:
        run(name, flags.seeds, flags.data, flags.runs, flags.records)


if __name__ == "__main__":
    main()
