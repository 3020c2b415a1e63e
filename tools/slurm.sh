#!/usr/bin/env bash
# Trains on the GPUs of a SLURM cluster, one process for each GPU, and goes on where it stopped when
# its time is over or its nodes are taken away:
#
#     sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 tools/slurm.sh \
#         --config=xfm_base:chips=32 --workdir=/shared/runs/xfm --config.mesh.fsdp=8
#
# What follows the script's name are the arguments of `unified-fm train`; the workdir is a folder that
# all nodes see. It reads:
#   UNIFIED_FM   the command, if it is not on the path: "tools/env.sh unified-fm" in a clone
#SBATCH --job-name=unified_fm
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --requeue
#SBATCH --open-mode=append
# The run saves within --grace_s of a SIGTERM, which comes this many seconds before the time is over.
#SBATCH --signal=TERM@120
set -euo pipefail

if [ $# = 0 ]; then
  echo "usage: sbatch [OPTION...] $0 --config=CONFIG --workdir=DIR [ARGUMENT...]" >&2
  exit 2
fi
read -ra command <<<"${UNIFIED_FM:-unified-fm}"

# SLURM tells each process which it is. A process that is lost is named by the others, which end by
# themselves with what they know: SLURM need not kill them.
status=0
srun --kill-on-bad-exit=0 "${command[@]}" train --grace_s=100 "$@" || status=$?

# 143: stopped by SIGTERM and saved. The same command, queued again, continues.
if [ "$status" = 143 ]; then
  echo "stopped and saved; the job is queued again" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
