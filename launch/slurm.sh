#!/usr/bin/env bash
# A training on the nodes of a Slurm job; ended early, the job is queued again and goes on.
#
#     sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 launch/slurm.sh --config=FILE --workdir=DIR
#     SLURM_JOB_NUM_NODES=2 SLURM_GPUS_ON_NODE=8 launch/slurm.sh --dry-run ...   # what such a job runs
#
# One process a node, with all of its GPUs. Two minutes before the time is up, and, where the site has
# a grace time, when a job of a higher priority wants the nodes, Slurm sends SIGTERM: the training
# saves and ends with 143. A study is run by a job array, whose tasks share the cells:
#
#     sbatch --array=1-8 --gpus=1 --requeue --wrap='clickflax study run FILE --out DIR'
#SBATCH --job-name=clickflax
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=clickflax-%j.txt
#SBATCH --signal=TERM@120
set -euo pipefail

nodes=${SLURM_JOB_NUM_NODES:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
call=(srun --kill-on-bad-exit=1)
# srun does not ask sbatch how many cores a task has, and by default it has one.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || call+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
if ((gpus)); then
    # JAX gives each task of Slurm one GPU, unless it is told.
    call+=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))")
fi
call+=(clickflax train)

dry=
if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
elif [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "launch/slurm.sh: this is a job: sbatch --nodes=N launch/slurm.sh $*" >&2
    exit 2
fi
# A job of one task is no cluster to JAX.
if ((nodes > 1)); then
    set -- "$@" --processes=auto
fi
if ((gpus)); then
    set -- "$@" "--devices=$((nodes * gpus))"
fi
if [ -n "$dry" ]; then
    printf '%q ' "${call[@]}" "$@"
    echo
    exit
fi

status=0
"${call[@]}" "$@" || status=$?
# A job that scancel ends is CANCELLED by now, and must stay so.
if [ "$status" = 143 ] && scontrol show job "$SLURM_JOB_ID" | grep 'JobState=RUNNING' >/dev/null; then
    echo "launch/slurm.sh: ended by SIGTERM; job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
