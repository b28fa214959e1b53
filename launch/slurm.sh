#!/usr/bin/env bash
# A training on the nodes of a Slurm job; ended early, the job is queued again and goes on.
#
#     sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config=FILE --workdir=DIR ...
#     launch/slurm.sh --dry-run --config=FILE --workdir=DIR ...   # print what would run
#
# One process a node, with all of its GPUs. Two minutes before the time is up, and when a job of a
# higher priority wants the nodes, Slurm sends SIGTERM: the training saves and ends with 143.
#SBATCH --job-name=clickflax
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=clickflax-%j.txt
#SBATCH --signal=TERM@120
set -euo pipefail

call=(srun --kill-on-bad-exit=1 clickflax train)
if [ "${1:-}" = --dry-run ]; then
    shift
    printf '%q ' "${call[@]}" "$@" --processes=auto
    echo
    exit
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "launch/slurm.sh: this is a job: sbatch --nodes=N launch/slurm.sh $*" >&2
    exit 2
fi

# A job of one task is no cluster to JAX.
[ "${SLURM_NTASKS:-1}" = 1 ] || set -- "$@" --processes=auto

status=0
"${call[@]}" "$@" || status=$?
if [ "$status" = 143 ]; then
    echo "launch/slurm.sh: ended by SIGTERM; job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
