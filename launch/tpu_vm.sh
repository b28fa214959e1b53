#!/usr/bin/env bash
# A training on a TPU slice of Google Cloud, on all of its workers; runs lie in a bucket.
#
#     export TPU=my-pod ZONE=us-east5-b TYPE=v6e-16 BUCKET=my-bucket  # PROJECT, VERSION, SPOT=1
#     launch/tpu_vm.sh create      # ask for the slice, and wait until it is there
#     launch/tpu_vm.sh setup       # on all workers: ~/bucket, and this commit from REPOSITORY (origin)
#     clickflax prepare ml-1m --raw RAW --out gs://my-bucket/data/ml-1m
#     launch/tpu_vm.sh run --config=configs/sasrec_ml1m.py --workdir=bucket/runs/sasrec \
#         --config.data.path=gs://my-bucket/data/ml-1m
#     launch/tpu_vm.sh logs | status | stop | delete
#     launch/tpu_vm.sh --dry-run VERB ...      # print what would run, and run nothing
#
# A spot slice (SPOT=1) may be taken away: `create`, `setup` and `run` again go on where it was. The
# bucket has a hierarchical namespace (--enable-hierarchical-namespace of `gcloud storage buckets
# create`): in a flat one the end of a checkpoint is not one step. For all workers at once gcloud wants
# `ssh-add ~/.ssh/google_compute_engine` first.
set -euo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2; }

dry=
if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
fi
verb=${1:-}
[ -n "$verb" ] || usage
shift

need() {
    for name in "$@"; do
        [ -n "${!name:-}" ] || { echo "launch/tpu_vm.sh: $name must be set; see its head" >&2; exit 2; }
    done
}
need TPU ZONE
place=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || place+=(--project="$PROJECT")
tpus=(gcloud compute tpus)

run() {
    if [ -n "$dry" ]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# A command on all workers.
everywhere() { run "${tpus[@]}" tpu-vm ssh "$TPU" "${place[@]}" --worker=all --command="$1"; }

# What has become of the request: ACCEPTED, ACTIVE, FAILED, SUSPENDED, ..., nothing without one.
state() {
    local said errors
    errors=$(mktemp)
    # gcloud warns on the other stream, also of what went well
    if said=$("${tpus[@]}" queued-resources describe "$TPU" "${place[@]}" \
        --format='value(state.state)' 2>"$errors"); then
        echo "$said"
    elif ! grep -q NOT_FOUND "$errors"; then
        echo "launch/tpu_vm.sh: $(cat "$errors")" >&2
        rm "$errors"
        exit 1
    fi
    rm "$errors"
}

# The software of a slice, by its type.
version() {
    case $TYPE in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) echo "launch/tpu_vm.sh: TYPE=$TYPE is not known here: name its software in VERSION" >&2; exit 2 ;;
    esac
}

request() {
    local software=${VERSION:-}
    [ -n "$software" ] || software=$(version)
    local call=("${tpus[@]}" queued-resources create "$TPU" --node-id="$TPU" "${place[@]}")
    call+=(--accelerator-type="$TYPE" --runtime-version="$software")
    [ "${SPOT:-0}" = 0 ] || call+=(--spot)
    run "${call[@]}"
}

case $verb in
create)
    need TYPE
    if [ -n "$dry" ]; then
        request
        exit
    fi
    for ((;;)); do
        now=$(state)
        case $now in
        ACTIVE) break ;;
        "") request ;;
        SUSPENDED) # a spot slice that was taken away must go before it is asked for again
            run "${tpus[@]}" queued-resources delete "$TPU" "${place[@]}" --quiet --force ;;
        FAILED) # such as for its quota: to ask again would not help
            "${tpus[@]}" queued-resources describe "$TPU" "${place[@]}" >&2
            echo "launch/tpu_vm.sh: $TPU has failed, see above; \`delete\` it before another try" >&2
            exit 1
            ;;
        esac
        echo "launch/tpu_vm.sh: $TPU is ${now:-asked for}"
        sleep "${WAIT:-30}"
    done
    echo "launch/tpu_vm.sh: $TPU is there"
    ;;
setup)
    need BUCKET
    commit=$(git rev-parse HEAD)
    repository=${REPOSITORY:-$(git remote get-url origin)}
    case $repository in
    http://*@* | https://*@*) # a token, which all workers would show among their processes
        repository=${repository%%://*}://${repository##*@}
        echo "launch/tpu_vm.sh: without the user of $repository: a private one wants ~/.netrc there" >&2
        ;;
    esac
    everywhere "set -e
        if ! command -v gcsfuse >/dev/null; then
            google=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
            curl -s \$google/doc/apt-key.gpg | sudo tee \$key >/dev/null
            echo \"deb [signed-by=\$key] \$google gcsfuse-\$(lsb_release -cs) main\" |
                sudo tee /etc/apt/sources.list.d/gcsfuse.list
            # a new machine updates itself, and lets no other in meanwhile
            sudo systemctl stop unattended-upgrades || true
            for _ in \$(seq 30); do sudo apt-get update -qq && break || sleep 10; done
            sudo env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \\
                apt-get -o DPkg::Lock::Timeout=600 install -y -qq gcsfuse
        fi
        mkdir -p ~/bucket
        mountpoint -q ~/bucket || gcsfuse --implicit-dirs --rename-dir-limit=100000 \\
            --metadata-cache-ttl-secs=0 $(printf %q "$BUCKET") ~/bucket
        [ -d ~/clickflax ] || git clone -q $(printf %q "$repository") ~/clickflax
        cd ~/clickflax && git fetch -q origin && git checkout -q $commit
        command -v ~/.local/bin/uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
        ~/.local/bin/uv venv -q --allow-existing --python 3.12 ~/venv
        ~/.local/bin/uv pip install -q --python ~/venv/bin/python -e ~/clickflax 'jax[tpu]' gcsfs"
    ;;
run)
    (($#)) || usage
    words=$(printf '%q ' "$@")
    everywhere "cd ~
        if kill -0 \$(cat ~/clickflax.pid 2>/dev/null) 2>/dev/null; then
            echo 'a training is already running here: stop it first' >&2
            exit 1
        fi
        if [ -d bucket ] && ! mountpoint -q bucket; then
            echo '~/bucket is not mounted, as after a restart of the machine: setup does that' >&2
            exit 1
        fi
        ln -sfn ~/clickflax/configs configs
        nohup ~/venv/bin/clickflax train $words--processes=auto >~/clickflax.txt 2>&1 &
        echo \$! >~/clickflax.pid"
    ;;
logs)
    run "${tpus[@]}" tpu-vm ssh "$TPU" "${place[@]}" --worker="${WORKER:-0}" \
        --command='tail -n 50 ~/clickflax.txt'
    ;;
status)
    run "${tpus[@]}" queued-resources describe "$TPU" "${place[@]}" --format='value(state.state)'
    everywhere "kill -0 \$(cat ~/clickflax.pid) 2>/dev/null && echo running || echo ended
        tail -n 1 ~/clickflax.txt"
    ;;
stop) everywhere "kill -TERM \$(cat ~/clickflax.pid)" ;;
delete) run "${tpus[@]}" queued-resources delete "$TPU" "${place[@]}" --quiet --force ;;
*) usage ;;
esac
