#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it, installs lossbench on all its hosts,
# starts the run, streams its log, starts again after a preemption, deletes it.
#
#   launch/tpu_vm.sh run NAME --zone=ZONE --accelerator=v3-32 -- \
#     --config=configs/imagenet_resnet50.py:sigmoid --workdir=gs://BUCKET/r50
#
# See launch/README.md. With --dry-run it prints every command and runs none.
set -euo pipefail

# Exit statuses of main.py; see the README.
readonly PREEMPTED=75 # it has saved
readonly PEER_DIED=134 # another host went first
readonly POLL_SECS=${POLL_SECS:-30}

usage() {
  cat <<'TEXT'
Usage: launch/tpu_vm.sh COMMAND NAME --zone=ZONE [OPTIONS] [-- MAIN.PY'S FLAGS]

Commands
  create    request the slice as a queued resource and wait until it is there
  install   copy this checkout to all hosts and install it
  start     start main.py on all hosts, in the background
  logs      stream the log of the first host until the run ends
  delete    delete the slice
  run       all of these; after a preemption again from create

Options
  --zone=ZONE            e.g. europe-west4-a
  --accelerator=TYPE     e.g. v3-32 or v5litepod-64 (create, run)
  --runtime=VERSION      default: the one of the accelerator
  --project=PROJECT      default: gcloud's
  --spot                 cheaper, and preempted at any time
  --max-restarts=N       of run, default 20
  --dry-run              print every command and run none
TEXT
}

die() {
  echo "Error: $*" >&2
  exit 2
}

# Prints a command, as it could be pasted, and runs it unless --dry-run.
do_it() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [[ $dry_run == yes ]] || "$@"
}

tpus() {
  do_it gcloud compute tpus "$@" --zone="$zone" ${project:+--project="$project"}
}

on_all_hosts() {
  tpus tpu-vm ssh "$name" --worker=all --command="$1"
}

on_first_host() {
  tpus tpu-vm ssh "$name" --worker=0 --command="$1"
}

state() {
  tpus queued-resources describe "$name" --format='value(state.state)'
}

# https://cloud.google.com/tpu/docs/runtimes
default_runtime() {
  case $accelerator in
    v5litepod*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() {
  [[ -n $accelerator ]] || die 'create needs --accelerator=TYPE, e.g. v3-32.'
  tpus queued-resources create "$name" --node-id="$name" \
    --accelerator-type="$accelerator" --runtime-version="${runtime:-$(default_runtime)}" \
    ${spot:+--spot}
  created=yes
  local found=''
  while true; do
    found=$(state)
    case $found in
      ACTIVE) return ;;
      FAILED | SUSPENDED) die "$name is $found: it will not start. See" \
        "'gcloud compute tpus queued-resources describe $name'." ;;
    esac
    [[ $dry_run == no ]] || return 0
    echo "$name is ${found:-unknown}, waiting" >&2
    sleep "$POLL_SECS"
  done
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  # Only what is committed, so that a run can be traced to a commit.
  do_it git -C "$(dirname "$0")/.." archive --output="$archive" HEAD
  tpus tpu-vm scp "$archive" "$name:lossbench.tar.gz" --worker=all
  rm -f "$archive"
  # The hosts' own Python is too old; uv brings one.
  on_all_hosts 'rm -rf lossbench && mkdir lossbench &&
tar -xzf lossbench.tar.gz -C lossbench && cd lossbench &&
python3 -m pip install -q --user uv &&
~/.local/bin/uv venv -q --python=3.12 .venv &&
~/.local/bin/uv pip install -q --python=.venv/bin/python -e ".[train,tpu]"'
}

start() {
  local quoted
  quoted=$(printf ' %q' "${main_flags[@]}")
  on_all_hosts "cd lossbench && rm -f status && (nohup sh -c \
'.venv/bin/python -u main.py$quoted > main.log 2>&1; echo \$? > status' \
> /dev/null 2>&1 &)"
}

# Streams the log; prints the status of the run on the last line of stdout.
# shellcheck disable=SC2016  # expanded on the host
logs() {
  on_first_host 'cd lossbench && touch main.log &&
(tail -n +1 -F main.log >&2 & tail=$!
while [ ! -f status ]; do sleep 5; done; sleep 2; kill $tail; cat status)'
}

delete() {
  tpus queued-resources delete "$name" --force --quiet
}

run() {
  local restarts status
  # Before the run has begun, nothing of ours is left behind to pay for.
  trap '[[ $created == no ]] || delete' EXIT
  for ((restarts = 0; restarts <= max_restarts; restarts++)); do
    create
    install
    start
    created=no # from here the run goes on without us
    # A slice that is gone answers with an error of ssh, not of the run; one
    # that is there has only lost the connection.
    while true; do
      status=$(logs | tail -n 1) || status=gone
      [[ $status == gone && $(state) == ACTIVE ]] || break
      echo "$name: the connection is lost, the run goes on." >&2
      sleep "$POLL_SECS"
    done
    delete
    [[ $dry_run == no ]] || return 0
    case $status in
      0)
        echo "$name: the run is over." >&2
        return 0
        ;;
      "$PREEMPTED" | "$PEER_DIED" | gone | '')
        echo "$name: preempted, restart $((restarts + 1)) of $max_restarts." >&2
        ;;
      *) die "main.py ended with status $status; its log is above." ;;
    esac
  done
  die "preempted $max_restarts times; the same command continues the run."
}

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage; exit 0; }
[[ $# -ge 2 ]] || { usage >&2; exit 2; }
command=$1 name=$2
shift 2
zone='' accelerator='' project='' spot='' dry_run=no
runtime='' created=no max_restarts=20 main_flags=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --zone=*) zone=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=yes ;;
    --max-restarts=*) max_restarts=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --)
      shift
      main_flags=("$@")
      break
      ;;
    *) die "unknown option '$1'. See launch/tpu_vm.sh --help." ;;
  esac
  shift
done
[[ -n $zone ]] || die 'give --zone=ZONE, e.g. --zone=europe-west4-a.'
[[ $max_restarts =~ ^[0-9]+$ ]] ||
  die "--max-restarts=$max_restarts is not a number."

# Before anything is there to be paid for.
case $command in
  start | run)
    [[ ${#main_flags[@]} -gt 0 ]] || die "$command needs main.py's flags after --."
    [[ " ${main_flags[*]}" =~ ' --workdir'[=\ ]gs:// ]] ||
      die "$command needs --workdir=gs://... among main.py's flags: what lies on" \
        'the slice is deleted with it.'
    ;;
esac

case $command in
  create | install | start | logs | delete | run) "$command" ;;
  *) die "unknown command '$command'. See launch/tpu_vm.sh --help." ;;
esac
