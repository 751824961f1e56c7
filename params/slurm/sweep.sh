#!/usr/bin/env bash
# A sweep on the nodes of one allocation: Ray's head and workers with a token of their own, all ended with the job.
#
#   sbatch --nodes=4 --gpus-per-node=1 --cpus-per-task=16 params/slurm/sweep.sh params/sweeps/rewards.yaml outputs/rewards
#
# Cells that use GPUs say how many in the sweep file (`gpus: 1`); without it those of a node share its GPUs.
# The folder must be one that all nodes see. Submitted again, it runs the cells that are missing or failed.
#SBATCH --job-name=proactor-sweep
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail
sweep=${1:?name a sweep file} out=${2:?name the folder of the sweep}

export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_raylet_start_wait_time_s=120
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN # by the environment, which others cannot read, not on a command line

steps=()
finish() {
  trap '' TERM INT
  [ ${#steps[@]} = 0 ] || kill "${steps[@]}" 2>/dev/null || true
  wait
  rm -f "${log:-}"
  srun --overlap --ntasks="$SLURM_JOB_NUM_NODES" rm -rf "$RAY_TMPDIR" || true
}
trap finish EXIT
trap 'exit 143' TERM INT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
on_head=(--overlap --nodes=1 --ntasks=1 --nodelist="$head")
read -r ip _ < <(srun "${on_head[@]}" hostname --ip-address)
port=${RAY_PORT:-6379} cpus=${SLURM_CPUS_ON_NODE:-1} log=$(mktemp)

srun "${on_head[@]}" --cpus-per-task="$cpus" \
  ray start --head --block --node-ip-address="$ip" --port="$port" --num-cpus="$cpus" --include-dashboard=false > >(tee "$log") &
steps+=($!)
until grep -q "Ray runtime started" "$log"; do # its port answers long before it can be joined
  kill -0 "${steps[0]}" 2>/dev/null || { echo "Ray's head on $head did not start" >&2; exit 1; }
  sleep 1
done
if [ ${#nodes[@]} -gt 1 ]; then
  others=$((${#nodes[@]} - 1))
  srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" --cpus-per-task="$cpus" \
    ray start --block --address="$ip:$port" --num-cpus="$cpus" &
  steps+=($!)
fi

proactor sweep run "$sweep" --out "$out" --address "$ip:$port" &
running=$!
steps+=("$running")
wait "$running"
