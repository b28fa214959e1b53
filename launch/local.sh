#!/usr/bin/env bash
# Several processes of this machine train together, each on its share of the GPUs. Where there is none
# the CPU is split: --config.train.cpu_devices=N says into how many devices for each.
#
#     launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/quickstart
#     launch/local.sh --dry-run 2 ...      # print what would run, and run nothing
#
# When one ends, so do the others. The work folder must be the same for all; PORT=N names a port.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }

dry=
if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
fi
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || usage
processes=$1
shift

port=${PORT:-12321}
gpus=0
if command -v nvidia-smi >/dev/null; then
    gpus=$(nvidia-smi --list-gpus | wc -l) || gpus=0 # no driver, no GPU
fi
if ((gpus % processes)); then
    echo "launch/local.sh: $processes processes cannot share $gpus GPUs equally" >&2
    exit 2
fi

# The GPUs of a process: 0,1 of the first of two where there are four.
share() {
    local each=$((gpus / processes))
    seq -s, $(($1 * each)) $((($1 + 1) * each - 1))
}

pids=()
end() {
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
}
trap end INT TERM

for ((i = 0; i < processes; i++)); do
    call=(clickflax train "$@" "--processes=$processes" "--coordinator=localhost:$port" "--process=$i")
    if ((gpus)); then
        # JAX would give each process in a shell of Slurm one GPU, unless it is told.
        own=$(seq -s, 0 $((gpus / processes - 1)))
        call=(env "CUDA_VISIBLE_DEVICES=$(share "$i")" "JAX_LOCAL_DEVICE_IDS=$own" "${call[@]}")
    fi
    if [ -n "$dry" ]; then
        printf '%q ' "${call[@]}"
        echo
        continue
    fi
    "${call[@]}" &
    pids+=($!)
done

# The first that fails, or a signal to this script, says how all have ended; it waits for all, as
# they may be saving.
status=0
while [ -n "$(jobs -pr)" ]; do
    code=0
    wait -n || code=$?
    if ((code && !status)); then
        status=$code
        end
    fi
done
for pid in "${pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    ((status)) || status=$code
done
exit "$status"
