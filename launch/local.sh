#!/usr/bin/env bash
# Several processes of this machine train together, each on its share of the GPUs, or of the CPU.
#
#     launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/quickstart
#     launch/local.sh --dry-run 2 ...      # print what would run, and run nothing
#
# When one ends, so do the others. The work folder must be the same for all; PORT=N names a port.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }

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
    ((gpus == 0)) || call=(env "CUDA_VISIBLE_DEVICES=$(share "$i")" "${call[@]}")
    if [ -n "$dry" ]; then
        printf '%q ' "${call[@]}"
        echo
        continue
    fi
    "${call[@]}" &
    pids+=($!)
done

# The first that fails, or is ended by a signal, says how all have ended.
status=0
for ((i = 0; i < ${#pids[@]}; i++)); do
    code=0
    wait -n "${pids[@]}" || code=$?
    if ((code != 0 && status == 0)); then
        status=$code
        end
    fi
done
exit "$status"
