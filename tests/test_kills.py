"""kill -9 in the middle of writing: what was there before is there, or what was to come, whole."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from clickflax.data.store import open_dataset
from clickflax.runtime import checkpoint

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
from clickflax.data.prepare import main
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
