"""Makes the folder of a release in tests/runs/: a log, a data set, two runs and their answers.

    python tests/runs/make.py tests/runs/0.1.0

Run it once at each release, with the code and the environment of that release, and add the folder
to git. It only uses the command line, which is the same in all releases.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import tempfile

ITEMS = 24
USERS = 40
STEPS = 6
MORE_STEPS = 12  # of a copy that is resumed
# Not needed to open a run: records of evaluations, TensorBoard.
LEFT_OUT = ("config.py", "*.csv", "test.*", "events.out.*", "projector_config.pbtxt", "*.tsv")
HISTORY = ["item-3", "item-4", "item-5"]
CONFIG = """from clickflax.config import default


def get_config():
    return default()
"""
BOTH = [
    "--config.data.path=data",
    "--config.model.width=8",
    "--config.model.layers=1",
    "--config.model.max_len=16",
    "--config.model.init_stddev=0.3",
    "--config.optim.learning_rate=0.01",
    "--config.optim.warmup_steps=2",
    "--config.train.batch_size=16",
    "--config.train.cpu_devices=1",
    "--config.train.eval_every=6",
    "--config.train.log_every=6",
]
FLAGS = {
    "next_item": [
        "--config.tasks=next_item",
        "--config.data.variables=item,action,price,tags,item.genre",
        "--config.data.given=action",
        "--config.data.validation_users=0",
        "--config.model.embedding_norm=False",
        "--config.model.heads=2",
        "--config.model.feed_forward=16",
        "--config.model.norm=pre",
        "--config.model.output=none",
        "--config.eval.given=action=buy",
    ],
    "purchase": [
        "--config.tasks=purchase",
        "--config.data.variables=item,action,price,session,count.action=cart",
        "--config.model.block=gru",
        "--config.data.chain=30m",
        "--config.data.split=time",
        "--config.data.validation_from=2026-03-06",
        "--config.data.test_from=2026-03-09",
        "--config.data.window=sliding",
        "--config.data.stride=8",
        "--config.data.position_from=start",
        "--config.train.monitor=auc",
    ],
}


def write_log(folder: pathlib.Path) -> None:
    """Sessions of users who walk along a ring of items, view, put in the cart, and buy."""
    draw = random.Random(0)
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["user", "time", "item", "action", "price", "tags"])
        for user in range(USERS):
            time = 1_772_323_200 + draw.randrange(9 * 86_400)  # from 2026-03-01 on
            for _ in range(draw.randint(1, 3)):
                item = draw.randrange(ITEMS)
                likes = draw.random()
                for _ in range(draw.randint(3, 7)):
                    item = (item + draw.choice((1, 1, 1, 2, 5))) % ITEMS
                    action = draw.choices(("view", "cart", "buy"), (3, 2 * likes, 2 * likes))[0]
                    price = "" if draw.random() < 0.1 else f"{5 + item + draw.random():.2f}"
                    tags = "|".join(draw.sample(("new", "sale", "gift"), draw.randint(0, 2)))
                    writer.writerow([f"user-{user}", time, f"item-{item}", action, price, tags])
                    time += draw.randint(10, 300)
                time += draw.randint(3_600, 4 * 86_400)
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["item", "title", "genre", "weight"])
        for item in range(ITEMS):
            writer.writerow([f"item-{item}", f"Item {item}", "abc"[item % 3], 1 + item / 8])


def clickflax(folder: pathlib.Path, *words: str) -> str:
    """Last line that `clickflax WORDS` prints in `folder`."""
    command = [sys.executable, "-m", "clickflax.cli", *words]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1] if done.stdout else ""


def train(folder: pathlib.Path, name: str, workdir: str, steps: int) -> dict:
    """Trains, or resumes, a run."""
    flags = ["--config=config.py", *BOTH, *FLAGS[name], f"--config.train.steps={steps}"]
    return json.loads(clickflax(folder, "train", *flags, f"--workdir={workdir}"))


def metrics_of(run: pathlib.Path) -> dict[str, float]:
    """Metrics in the record of an evaluation; not its times."""
    record = json.loads((run / "test.json").read_text(encoding="utf-8"))
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, float) and "seconds" not in name
    }


def losses_of(run: pathlib.Path) -> list[float]:
    """Training losses of a run that were logged."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def answers_of(folder: pathlib.Path, name: str) -> dict:
    """Metrics of a run, its lists, and what a copy of it that is resumed comes to."""
    clickflax(folder, "evaluate", "--run", name)
    answers = {"metrics": metrics_of(folder / name)}
    if name == "next_item":
        words = ["recommend", "--run", name, "--history", "|".join(HISTORY), "--k", "5"]
        answers["recommendations"] = json.loads(clickflax(folder, *words))
    shutil.copytree(folder / name, folder / "resumed")
    result = train(folder, name, "resumed", MORE_STEPS)
    answers["resumed"] = {
        "step": result["step"],
        "best_step": result["best_step"],
        "losses": losses_of(folder / "resumed"),
    }
    shutil.rmtree(folder / "resumed")
    return answers


def machine() -> dict[str, str | int | None]:
    """Where the last digits of a sum of floats come from: the processor and the compiler."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else platform.processor()
    lines = [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    return {
        "processor": hashlib.sha256("\n".join(lines[:2]).encode()).hexdigest(),
        "cores": os.cpu_count(),
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    out = parser.parse_args().folder
    if out.exists():
        parser.error(f"{out} exists already: choose another folder, or remove it")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_log(folder)
        (folder / "config.py").write_text(CONFIG, encoding="utf-8")
        columns = "sequence=user,time=time,item=item,action=action"
        columns += ",price=price:numeric,tags=tags:several"
        words = ["prepare", "log", "--raw=log.csv", "--out=data", "--items=items.csv"]
        clickflax(folder, *words, f"--columns={columns}")
        answers = {}
        for task in FLAGS:
            train(folder, task, task, STEPS)
            answers[task] = answers_of(folder, task)
        answers["machine"] = machine()
        (folder / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
        shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*LEFT_OUT))


if __name__ == "__main__":
    main()
