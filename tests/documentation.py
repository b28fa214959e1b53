"""Code blocks of README, CONTRIBUTING and docs/, the notebook, and the process that runs them.

A comment before a block says what becomes of it:

    <!-- run -->                    runs in .ci/run
    <!-- slow -->                   runs with --slow, in the slow tests
    <!-- file: NAME -->             is written to a file that later blocks use
    <!-- not run: REASON -->        does not run here

Blocks of the language `text` are output or drawings, and need no mark. All blocks run in the order
of `pages()`, in one folder and one process, with few steps and a small log. The cells of the
notebook are slow blocks, in a folder of their own:

    python tests/documentation.py FOLDER [--slow]
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"run|slow|file: \S+|not run: .+")
# Few and small steps for every training of a block.
FEW_STEPS = {
    "model.layers": 1,
    "model.width": 16,
    "train.batch_size": 16,
    "train.eval_every": 4,
    "train.log_every": 2,
    "train.steps": 4,
}
SIMULATED, LOG = "data/simulated", "events.csv"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: pathlib.Path
    line: int
    mark: str  # "" if there is none
    language: str
    code: str

    @property
    def where(self) -> str:
        """Path and line of the block."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[pathlib.Path]:
    """Pages with code, in the order in which their blocks run."""
    guide = ROOT / "docs" / "guide"
    rest = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent != guide]
    return [ROOT / "README.md", *sorted(guide.glob("*.md")), *rest, ROOT / "CONTRIBUTING.md"]


def blocks_of(page: pathlib.Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[1] or "", match[2], match[3])
        for match in BLOCK.finditer(text)
    ]


def all_blocks() -> list[Block]:
    """The fenced blocks of all pages."""
    return [block for page in pages() for block in blocks_of(page)]


def notebook_blocks() -> list[Block]:
    """The code cells of the notebook."""
    page = ROOT / "examples" / "quickstart.ipynb"
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return [
        Block(page, number, "slow", "python", "".join(cell["source"]))
        for number, cell in enumerate(cells)
        if cell["cell_type"] == "code"
    ]


def commands_of(code: str) -> list[list[str]]:
    """The words of every command of a shell block."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def write_log() -> None:
    """Simulates a shop of 300 sequences, and writes its events as a CSV file."""
    import numpy as np

    from clickflax.batch import RESERVED
    from clickflax.data.store import open_dataset

    run_command(["clickflax", "simulate", "--out", SIMULATED, "--sequences=300", "--items=60"])
    shop = open_dataset(SIMULATED)
    tokens = {name: shop.vocabulary(name).tokens() for name in ("item", "action")}
    sequence = np.repeat(np.arange(len(shop.offsets) - 1), np.diff(shop.offsets))
    lines = ["user,timestamp,product,action,price"]
    for user, time, item, action, price in zip(
        sequence,
        shop.columns["time"] // 1_000_000,
        shop.columns["item"] - RESERVED,
        shop.columns["action"] - RESERVED,
        shop.columns["price"],
        strict=True,
    ):
        words = (f"user-{user}", time, tokens["item"][item], tokens["action"][action], price)
        lines.append(",".join(map(str, words)))
    pathlib.Path(LOG).write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_command(words: list[str]) -> None:
    """Runs a command of a block; those of clickflax run in this process."""
    from clickflax import cli

    if words[0] != "clickflax":
        subprocess.run(words, check=True)
        return
    if words[1] == "train":
        few = dict(FEW_STEPS)
        if not any(word.startswith("--config.data.path") for word in words):
            few["data.path"] = SIMULATED
        words = [*words, *(f"--config.{knob}={value}" for knob, value in few.items())]
    print("$", *words, flush=True)
    try:
        status = cli.main(words[1:])
    except SystemExit as end:
        status = end.code
    if status:
        raise RuntimeError(f"{shlex.join(words)} ended with status {status}.")


def run_block(block: Block, names: dict) -> None:
    """Runs a block; `names` are those that Python blocks of its page share."""
    if block.mark.startswith("file: "):
        pathlib.Path(block.mark.removeprefix("file: ")).write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.code, block.where, "exec"), names)
    else:
        for words in commands_of(block.code):
            run_command(words)


def main(folder: str, *flags: str) -> int:
    """Runs the marked blocks in a folder; returns 1 at the first that fails, and names it."""
    folder = os.path.abspath(folder)
    os.chdir(folder)
    for name in ("configs", "experiments", "launch", "tests"):
        os.symlink(ROOT / name, name)
    write_log()
    names: dict[pathlib.Path, dict] = {}
    os.makedirs("notebook")
    for block in [*all_blocks(), *notebook_blocks()]:
        if block.page.suffix == ".ipynb":
            os.chdir(os.path.join(folder, "notebook"))
        if block.mark == "run" or block.mark.startswith("file: ") or block.mark in flags:
            print(f"== {block.where}", flush=True)
            try:
                run_block(block, names.setdefault(block.page, {"__name__": "documentation"}))
            except Exception:
                traceback.print_exc(file=sys.stdout)
                print(f"failed: {block.where}", flush=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *(flag.removeprefix("--") for flag in sys.argv[2:])))
