#!/usr/bin/env bash
# Trains on all hosts of a TPU VM slice, from any machine with gcloud, and starts the same command
# again when a host was lost or maintained:
#
#     tools/tpu_vm.sh NAME ZONE --config=xfm_base:chips=256 --workdir=gs://bucket/xfm \
#         --config.mesh.fsdp=8
#
# What follows NAME and ZONE are the arguments of `unified-fm train`. It reads:
#   UNIFIED_FM   the command on the hosts, if it is not on their path:
#                "cd unified_fm && tools/env.sh unified-fm" in a clone
#   TPU_CREATE   a command that makes the slice again after it was preempted; without one that is
#                the end
#   TPU_WAIT     seconds between two looks (30)
#   TPU_TRIES    how many times in a row it starts again after exit code 1 (3)
# Exit code 1 is that of a run that failed, and of the hosts that are left when one is lost. Only a
# slice that stays READY through all these tries has a run that fails; 2 is final at once.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 NAME ZONE --config=CONFIG --workdir=DIR [ARGUMENT...]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
wait=${TPU_WAIT:-30} tries=${TPU_TRIES:-3} failed=0

say() { printf '%s: %s\n' "$name" "$*" >&2; }

state() {
  gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)' || echo GONE
}

# Quoted once more: the shells of the hosts read it again.
printf -v line '%q ' train "$@"
line="${UNIFIED_FM:-unified-fm} $line"

while true; do
  now=$(state)
  case $now in
    READY)
      if [ "$failed" -gt "$tries" ]; then
        say "the run has failed $failed times in a row with exit code 1, and has said why"
        exit 1
      fi
      status=0
      gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$line" ||
        status=$?
      case $status in
        0) say "finished"; exit 0 ;;
        1) failed=$((failed + 1)) ;;
        2) say "the run was refused with exit code 2, and has said why"; exit 2 ;;
        130) say "interrupted"; exit 130 ;;
        *) failed=0 ;;
      esac
      say "ended with exit code $status"
      ;;
    PREEMPTED | TERMINATED | GONE | STOPPED)
      if [ -z "${TPU_CREATE:-}" ]; then
        say "the slice is $now; make it again, or give TPU_CREATE. The same command continues"
        exit 75
      fi
      say "the slice is $now, and made again"
      bash -c "$TPU_CREATE" || say "not yet: exit code $?"
      ;;
    *) say "the slice is $now" ;;
  esac
  if [ "$now" != READY ]; then
    failed=0 # it was the slice
  fi
  sleep "$wait"
done
