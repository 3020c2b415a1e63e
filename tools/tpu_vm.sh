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
#   TPU_TRIES    how many times in a row it starts again after exit code 1, or one that tells of a
#                crash (3)
#   TPU_LOST     how many times in a row the slice may be out of reach: gcloud cannot tell its state,
#                or ssh ends with 255 within five minutes (20)
# Exit code 1 is that of a run that failed, and of the hosts that are left when one is lost. Only a
# slice that stays READY through all these tries has a run that fails; 2 is final at once. The
# script's own are 75, the slice is gone, and 69, it is out of reach.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 NAME ZONE --config=CONFIG --workdir=DIR [ARGUMENT...]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
wait=${TPU_WAIT:-30} tries=${TPU_TRIES:-3} most_lost=${TPU_LOST:-20} failed=0 lost=0
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

say() { printf '%s: %s\n' "$name" "$*" >&2; }

# What gcloud says of the slice. It is GONE only where gcloud says that there is none: a network that
# fails, or credentials that have lapsed, say nothing of it.
state() {
  if gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)' 2>"$errors"
  then
    return
  fi
  cat "$errors" >&2
  if grep -q NOT_FOUND "$errors"; then echo GONE; else echo UNKNOWN; fi
}

out_of_reach() {
  lost=$((lost + 1))
  if [ "$lost" -gt "$most_lost" ]; then
    say "out of reach $lost times in a row, see above"
    exit 69
  fi
}

# Quoted once more: the shells of the hosts read it again.
printf -v line '%q ' train "$@"
line="${UNIFIED_FM:-unified-fm} $line"

while true; do
  now=$(state)
  case $now in
    READY)
      if [ "$failed" -gt "$tries" ]; then
        say "the run has failed $failed times in a row, the last time with exit code $status"
        exit 1
      fi
      status=0 started=$SECONDS
      gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$line" ||
        status=$?
      case $status in
        0) say "finished"; exit 0 ;;
        2) say "the run was refused with exit code 2, and has said why"; exit 2 ;;
        130) say "interrupted"; exit 130 ;;
        129 | 143 | 255) failed=0 ;; # told to end, or the connection is lost
        *) failed=$((failed + 1)) ;;
      esac
      say "ended with exit code $status"
      if [ "$status" = 255 ] && [ $((SECONDS - started)) -lt 300 ]; then
        out_of_reach
      else
        lost=0
      fi
      ;;
    UNKNOWN)
      say "its state is not known"
      out_of_reach
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
  case $now in
    READY | UNKNOWN) ;;
    *) failed=0 lost=0 ;; # it was the slice
  esac
  sleep "$wait"
done
