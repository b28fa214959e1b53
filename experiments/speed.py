"""Speed of training, evaluation and recommendation, compared with other libraries.

    python experiments/speed.py --data RAW/ml-1m/sequences.txt --max-len 200 \\
        --peers rectools=PYTHON,recbole=PYTHON --rounds 3 --record
    python experiments/speed.py --start-up --record

`--data` is a file of `user item` lines in time order. `PYTHON` is the interpreter of an environment
with the library; experiments/peers/README.md makes these environments. The programs run one after
the other, `--rounds` times. The fastest round of each counts, because other work on the machine can
only slow it down. Each program prints a JSON line, ours last, with the ratios to the others.
`--record` writes the lines to experiments/speed/, from which table.py makes the tables of speed.md.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import clickflax
from clickflax.batch import RESERVED
from clickflax.config.default import default, override
from clickflax.data.batches import TrainingBatches
from clickflax.data.variables import read_columns
from clickflax.evaluation.evaluator import make_evaluator
from clickflax.inference import recommend
from clickflax.inference.predictor import make_predictor
from clickflax.run.folder import last_checkpoint, load_run, open_data
from clickflax.run.targets import make_task_data
from clickflax.runtime import checkpoint, sharding
from clickflax.runtime.environment import environment
from clickflax.tasks.cloze import masked_count
from clickflax.training.progress import Progress
from clickflax.training.setup import set_up
from experiments.study import MACHINE

HERE = pathlib.Path(__file__).resolve().parent
TASKS = {"bert4rec": "masked_item", "sasrec": "next_item"}
RATES = {
    "rectools": "train_sequences_per_s",
    "recbole": "train_rows_per_s",
    "replay": "train_sequences_per_s",
    "keras_rs": "train_sequences_per_s",
    "ours": "train_sequences_per_s",
}
PYTORCH = ("rectools", "recbole", "replay")


def config_for(flags: argparse.Namespace, data: pathlib.Path) -> ConfigDict:
    """Config of the model that the scripts of experiments/peers build, with `flags.overrides`."""
    c = default()
    c.data.path = str(data)
    c.data.validation_users = 0
    c.tasks = (TASKS[flags.model],)
    if flags.model == "sasrec":
        c.model.update({"norm": "pre", "output": "none", "output_bias": False})
        c.model.embedding_norm = False
    c.model.update({"width": flags.width, "layers": flags.layers, "heads": flags.heads})
    c.model.update({"feed_forward": 4 * flags.width, "max_len": flags.max_len})
    c.model.dropout = c.model.attention_dropout = 0.2
    c.train.batch_size = flags.batch
    return override(c, flags.overrides)


def peak_gflops(mesh: jax.sharding.Mesh, dtype: str, size: int = 4096) -> float:
    """Peak GFLOP/s of all devices together, each with a large matrix product of its own."""

    def product(x):
        return jax.lax.dot(x[0], x[0], preferred_element_type=jnp.float32)[None]

    spec = jax.sharding.PartitionSpec(sharding.DATA)
    run = jax.jit(jax.shard_map(product, mesh=mesh, in_specs=spec, out_specs=spec))
    x = sharding.split_rows(np.ones((mesh.size, size, size), jnp.dtype(dtype)), mesh, mesh.size)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(run(x))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 * mesh.size / min(seconds[1:]) / 1e9


def step_gflop(config: ConfigDict, batches: TrainingBatches, items: int) -> float:
    """Arithmetic that a training step needs, in GFLOP.

    It excludes padding, attention between sequences, and scores and states of the last block
    without a target. The backward pass counts as two forward passes.
    """
    m, length = config.model, batches.packing.length.astype(np.int64)
    asked = length if batches.shifted else masked_count(length, config.mask.ratio)
    pairs = 1 if batches.shifted else 2  # products per pair of events; half the pairs if causal

    def block(queries):
        own = queries * (2 * m.width**2 + 2 * m.width * m.feed_forward)
        return own + length * 2 * m.width**2 + queries * length * m.width * pairs

    blocks = (m.layers - 1) * block(length) + block(asked)
    scores = asked * m.width * (items + (m.width if m.output == "dense" else 0))
    share = batches.rows / batches.packing.rows
    return float(3 * 2 * (blocks + scores).sum() * share / 1e9)


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def time_command(*words: str, **environ: str) -> float:
    """Runs `clickflax WORDS` in a separate process and returns its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "clickflax.cli", *words]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environ)
    return time.perf_counter() - start


def time_steps(config: ConfigDict, folder: pathlib.Path, steps: int) -> dict:
    """Times `steps` dispatches of training, of which the first two do not count."""
    context, state = set_up(config, folder)
    times, at_once = [], context.steps.at_once
    for step in range(0, steps * at_once, at_once):
        start = time.perf_counter()
        state, metrics = context.steps(state, step, at_once)
        float(metrics["loss"][-1])
        times.append((time.perf_counter() - start) / at_once)
    train_peak_mb = peak_mb()
    past = Progress(step=steps * at_once)._asdict()
    checkpoint.save(last_checkpoint(folder), steps * at_once, past, params=state.params)
    (batches,) = context.data.batches.values()
    step_s = float(np.median(times[2:]))
    items = context.data.dataset.size("item") - RESERVED
    peak = peak_gflops(context.mesh, config.model.dtype)
    gflop = step_gflop(config, batches, items)
    tokens = batches.rows * float(batches.packing.length.sum()) / batches.packing.rows
    cells = batches.packing.rows * batches.layout.max_len
    return {
        "batch": round(batches.windows_per_batch, 1),
        "step_s": round(step_s, 4),
        "train_sequences_per_s": round(batches.windows_per_batch / step_s, 1),
        "train_tokens_per_s": round(tokens / step_s),
        "padding": round(1 - float(batches.packing.length.sum()) / cells, 4),
        "gflop_per_step": round(gflop, 2),
        "peak_gflops": round(peak, 1),
        "share_of_peak": round(gflop / step_s / peak, 3),
        "first_step_s": round(times[0] * at_once, 2),
        "steps_at_once": at_once,
        "train_peak_mb": train_peak_mb,
    }


def time_inference(folder: pathlib.Path) -> dict:
    """Times evaluation and recommendation with the run of `time_steps`, with and without
    compilation.
    """
    run = load_run(folder)
    dataset, lists = open_data(run), folder / "lists.parquet"
    (data,) = make_task_data(run.config, dataset).values()
    mesh = sharding.make_mesh()
    predictor = make_predictor(run.config, run.model, data.task, mesh, run.constants, {})
    evaluator = make_evaluator(predictor, data, read_columns(dataset, run.variables), run.config)
    params, rates = sharding.replicate(run.params, mesh), {}

    def evaluated() -> int:
        evaluator.evaluate(params, "test")
        return len(data.test)

    def timed(name: str, work) -> None:
        for which in ("first", "then"):
            start = time.perf_counter()
            users = work()
            rates[f"{name}_{which}"] = round(users / (time.perf_counter() - start), 1)

    def recommended() -> int:
        return recommend.write_recommendations(run, None, None, lists, 10, True, ())

    timed("recommend_users_per_s", recommended)
    timed("evaluate_users_per_s", evaluated)
    return rates | {"peak_rss_mb": peak_mb()}


def time_clickflax(flags: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Times preparation, training, recommendation and evaluation for all users.

    Called once per process, so that the peak memory is that of this measurement.
    """
    data = folder / "data"
    prepare_s = time_command("prepare", "pairs", "--raw", flags.data, "--out", str(data))
    config = config_for(flags, data)
    sharding.use_devices(config.train.cpu_devices)
    line = {
        "peer": f"clickflax {clickflax.__version__}",
        "model": flags.model,
        "max_len": flags.max_len,
        "overrides": flags.overrides,
        **time_steps(config, folder / "run", flags.steps),
        **time_inference(folder / "run"),
        "prepare_s": round(prepare_s, 2),
    }
    return line | {"recommend_users_per_s": line["recommend_users_per_s_first"]}


def run_program(name: str, python: str, flags: argparse.Namespace) -> dict:
    """Runs the script of a library in its environment, or this one, and returns its last line."""
    options = {
        "--data": pathlib.Path(flags.data).resolve(),
        "--model": flags.model,
        "--max-len": flags.max_len,
        "--width": flags.width,
        "--layers": flags.layers,
        "--heads": flags.heads,
        "--batch": flags.batch,
        "--steps": flags.steps,
    }
    if name in PYTORCH:
        options["--accelerator"] = flags.accelerator
    module = "experiments.speed" if name == "ours" else f"experiments.peers.time_{name}"
    command = [python, "-m", module, *(str(word) for pair in options.items() for word in pair)]
    command += flags.overrides if name == "ours" else []
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def fastest(lines: list[dict], rate: str) -> dict:
    """Line of the round that trained fastest, with the fastest recommendation of all rounds."""
    best = max(lines, key=lambda line: line[rate])
    name = "recommend_users_per_s"
    recommended = [line[name] for line in lines if name in line]
    rounds = {"rounds": [line[rate] for line in lines]}
    return best | rounds | ({name: max(recommended)} if recommended else {})


def compare(flags: argparse.Namespace, others: dict[str, str]) -> list[dict]:
    """Lines of the other libraries, then ours with the ratios."""
    programs = others | {"ours": sys.executable}
    rounds: dict[str, list[dict]] = {name: [] for name in programs}
    for _ in range(flags.rounds):
        for name, python in programs.items():
            rounds[name].append(run_program(name, python, flags))
    found = {name: fastest(lines, RATES[name]) for name, lines in rounds.items()}
    line = found.pop("ours")
    for name, other in found.items():
        line[f"times_{name}"] = round(line["train_sequences_per_s"] / other[RATES[name]], 2)
        if "recommend_users_per_s" in other:
            rate = line["recommend_users_per_s"] / other["recommend_users_per_s"]
            line[f"times_{name}_recommend"] = round(rate, 2)
    return [*found.values(), line]


def start_up() -> list[dict]:
    """Seconds of the import, and of the quick start until after its first step.

    The latter is measured without and with cached compiled programs, and includes the checkpoint.
    """
    program = (
        "import time; t = time.perf_counter(); import clickflax; print(time.perf_counter() - t)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    line = {"import_s": round(float(done.stdout), 4)}
    config = f"--config={HERE.parent / 'configs' / 'quickstart.py'}"
    with tempfile.TemporaryDirectory() as folder:
        for which in ("cold", "warm"):
            flags = [config, f"--workdir={folder}/{which}", "--config.train.steps=1"]
            flags += ["--config.data.validation_users=0"]
            seconds = time_command("train", *flags, JAX_COMPILATION_CACHE_DIR=f"{folder}/cache")
            line[f"first_step_{which}_s"] = round(seconds, 2)
    return [line]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", help="a file of `user item` lines")
    what.add_argument("--start-up", action="store_true")
    parser.add_argument("--model", choices=sorted(TASKS), default="bert4rec")
    parser.add_argument("--max-len", type=int, default=200)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1, help="the fastest one counts")
    parser.add_argument("--peers", default="", help="rectools=PYTHON,recbole=PYTHON")
    parser.add_argument(
        "--accelerator", choices=("cpu", "gpu"), default="cpu", help="for the PyTorch libraries"
    )
    parser.add_argument("--record", action="store_true", help="write the lines to a file")
    parser.add_argument("overrides", nargs="*", help="such as config.train.micro_rows=2")
    flags = parser.parse_args()
    if flags.overrides and not flags.data:
        parser.error("overrides go with --data")
    if flags.steps < 3:
        parser.error("--steps must be 3 or more: the first two are not counted")
    if flags.rounds < 1:
        parser.error("--rounds must be 1 or more")
    others = dict(pair.split("=", 1) for pair in flags.peers.split(",") if pair)
    known = sorted(RATES.keys() - {"ours"})
    unknown = sorted(others.keys() - set(known))
    if unknown:
        parser.error(f"--peers has {unknown}; choose from {known}")
    if flags.start_up:
        lines = start_up()
    elif others or flags.rounds > 1:
        lines = compare(flags, others)
    else:
        with tempfile.TemporaryDirectory() as folder:
            lines = [time_clickflax(flags, pathlib.Path(folder))]
    for line in lines:
        print(json.dumps(line))
    if flags.record:
        about = environment("")
        kept = {key: about[key] for key in MACHINE}
        name, title = "start-up", "Start-up"
        if flags.data:
            data = pathlib.Path(flags.data).parent.name
            backend = "" if kept["backend"] == "cpu" else f"-{kept['backend']}"
            changed = "".join(f"-{text.removeprefix('config.')}" for text in flags.overrides)
            name = f"{flags.model}-{data}{backend}{changed}"
            title = f"{flags.model} on {data}, length {flags.max_len}, width {flags.width}{changed}"
        (HERE / "speed").mkdir(exist_ok=True)
        record = {"title": title, "lines": lines, "environment": kept}
        path = HERE / "speed" / f"{name}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
