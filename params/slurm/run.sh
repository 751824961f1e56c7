#!/usr/bin/env bash
# One run on one node: its parameters, its folder, and whatever else `proactor run` takes.
#
#   sbatch --gpus-per-node=8 --cpus-per-task=64 params/slurm/run.sh params/h100x8-homeloan.yaml outputs/homeloan
#
# Two minutes before its time is up the run is ended in good order; submitted again, it goes on from there.
#SBATCH --job-name=proactor-run
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=48:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail
params=${1:?name a file of parameters} out=${2:?name the folder of the run}

export PATH="$PWD/.venv/bin:$PATH"
srun --ntasks=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
  proactor run --params "$params" --out "$out" "${@:3}" &
step=$!
# the job's first step is told, for srun itself would kill its tasks at once
trap 'scancel --signal=TERM "$SLURM_JOB_ID.0" || kill -TERM $step; wait $step || true; exit 143' TERM INT
wait $step
