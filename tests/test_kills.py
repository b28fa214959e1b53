"""kill -9 in the middle of writing, and a full disk: what was there before is there, or what was to
come, whole.
"""

import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from clickflax.data.store import open_dataset
from clickflax.run.folder import load_run
from clickflax.runtime import checkpoint
from clickflax.runtime.params import by_name
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop

# Dies at the n-th file that it opens to write, renames, makes or removes, once it is armed.
DIE = """
import os, signal, sys
left = int(sys.argv[1])
armed = False
NAMES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")
def hook(event, args):
    global left
    if not armed or event not in NAMES or event == "open" and not args[2] & os.O_ACCMODE:
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
SAVE = """
import pathlib
import jax.numpy as jnp
from clickflax.runtime import checkpoint
for step in (1, 2):
    params = {"a": jnp.full(1000, float(step))}
    checkpoint.save(pathlib.Path(FOLDER), step, {"step": step}, params=params)
    armed = True
"""
PREPARE = """
from clickflax.preparation.main import main
armed = True
main(["log", "--raw", RAW, "--out", OUT, "--columns", "sequence=u,item=i", "--overwrite"])
"""


def died(code, at):
    """Whether the code was killed, at the n-th time."""
    done = subprocess.run([sys.executable, "-c", DIE + code, str(at)], capture_output=True)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


MOMENTS = [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 4, 6, 9, 13, 18, 24, 30))]


@pytest.mark.parametrize("at", MOMENTS)
def test_a_kill_while_a_checkpoint_is_written_leaves_one_that_is_whole(tmp_path, at):
    folder = tmp_path / "last"
    killed = died(SAVE.replace("FOLDER", repr(str(folder))), at)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    progress, params = checkpoint.load_params(folder, here)
    assert killed or at > 9
    assert progress["step"] in (1, 2) if killed else progress["step"] == 2
    np.testing.assert_array_equal(params["a"], np.full(1000, progress["step"]))
    checkpoint.save(folder, 3, {"step": 3}, params=params)  # nothing is in its way
    assert checkpoint.load_params(folder, here)[0]["step"] == 3


@pytest.mark.parametrize("at", MOMENTS)
def test_a_kill_while_a_data_set_is_written_leaves_the_old_or_the_new_one(tmp_path, at):
    raw, out = tmp_path / "log.csv", tmp_path / "out"
    code = PREPARE.replace("RAW", repr(str(raw))).replace("OUT", repr(str(out)))
    raw.write_text("u,i\n1,a\n1,b\n")
    assert not died(code, 10**6)
    raw.write_text("u,i\n1,a\n1,b\n1,c\n")
    killed = died(code, at)
    assert killed or at > 9
    if out.exists():
        assert open_dataset(out).events in ((2, 3) if killed else (3,))
    else:
        # between the moving away of the old one and that of the new one to its place
        assert killed and open_dataset(next(tmp_path.glob(".out.*.old"))).events == 2
    assert not died(code, 10**6) and open_dataset(out).events == 3


# A disk of its own, which is filled up to so many kilobytes between two trainings, and emptied.
FULL_DISK = """
set -e
disk=$1 left=$2 whole=$3
train() { "$PYTHON" -m clickflax.cli train --config=config.py --workdir="$1" \
    --config.train.steps="$2"; }
mount -t tmpfs -o size=20m tmpfs "$disk"
train "$disk/run" 4
dd if=/dev/zero of="$disk/ballast" bs=1k 2>/dev/null || true
truncate -s -"${left}k" "$disk/ballast"
status=0
train "$disk/run" 8 2>said.txt || status=$?
rm "$disk/ballast"
train "$disk/run" 8
cp -r "$disk/run" "$whole"
exit $status
"""
CONFIG = """
from clickflax.config import default

def get_config():
    c = default()
    c.tasks = ("next_item",)
    c.data.path = "data"
    c.model.update({"width": 8, "max_len": 8, "feed_forward": 16, "layers": 1})
    c.train.update({"eval_every": 2, "log_every": 1, "batch_size": 16, "cpu_devices": 1})
    return c
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "message"),
    [
        (0, "No space left on device: free some space and run the same command again"),
        (16, "cannot save a checkpoint in .*: the disk is full. The previous one is intact"),
        (60, "cannot save a checkpoint in .*: the disk is full. The previous one is intact"),
    ],
)
def test_a_training_ends_where_the_disk_is_full_and_goes_on_to_the_bit(tmp_path, left, message):
    apart = ["unshare", "--mount", "--map-root-user"]
    (tmp_path / "disk").mkdir()
    mount = [*apart, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs a disk of its own, which this machine lets nobody mount")
    simulate(tmp_path / "data", Shop(sequences=60, items=40, mean_length=6.0, max_length=12))
    (tmp_path / "config.py").write_text(CONFIG)
    call = [*apart, "bash", "-c", FULL_DISK, "bash", "disk", str(left), "run"]
    done = subprocess.run(
        call,
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    said = (tmp_path / "said.txt").read_text()
    assert done.returncode == 1, done.stderr
    assert re.search(message, said.splitlines()[-2]), said
    assert "resumed at step 4" in done.stderr
    train = [sys.executable, "-m", "clickflax.cli", "train", "--config=config.py"]
    train += ["--workdir=whole", "--config.train.steps=8"]
    subprocess.run(train, cwd=tmp_path, check=True, capture_output=True)
    ours, theirs = (by_name(load_run(tmp_path / name, "last").params) for name in ("run", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
