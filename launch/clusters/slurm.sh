#!/bin/bash
# One sweep on Slurm: Ray starts on every node of the allocation, and ends with the sweep.
#
#   export RAYGAP_STORAGE=/shared/raygap
#   sbatch --job-name=ave launch/clusters/slurm.sh --dataset ave --root /shared/AVE_Dataset --trials 100
#
# The arguments are those of launch/sweep.py; the run folder is $RAYGAP_STORAGE/runs/<job name>. Submitted again under
# the same name, with --dataset alone, it goes on with the sweep. Submit from the repository's root, where .venv is.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --exclusive

# --exclusive: when it ends, Ray stops every Ray process of yours on its nodes, also one of another job.
set -euo pipefail

: "${RAYGAP_STORAGE:?set it to a folder that all nodes share}"
run="$RAYGAP_STORAGE/runs/$SLURM_JOB_NAME"
mkdir -p "$run"
source .venv/bin/activate

# Other users of these machines reach Ray's ports too: only who has this job's token may use them.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/token-$SLURM_JOB_ID"
(umask 077 && mkdir -p ~/.ray && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# Ray opens its files to every user of a machine: on each node they lie in a folder that is open to you alone.
export RAY_TMPDIR="/tmp/raygap-$UID"
srun bash -c 'mkdir -p -m 700 "$RAY_TMPDIR" && [ ! -L "$RAY_TMPDIR" ] && chmod 700 "$RAY_TMPDIR"'

# A fast disk of each node's own, where it keeps its copy of the store.
export RAYGAP_LOCAL="${TMPDIR:-/tmp}/raygap"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$host" hostname -I | awk '{print $1}')
address="$ip:$((20000 + SLURM_JOB_ID % 10000))"

sweep=(python launch/sweep.py "$@" --out "$run" --cache "$RAYGAP_STORAGE/stores")
if [ -e "$run/sweep.yaml" ]; then
  sweep+=(--resume)
fi

# The dashboard listens on all addresses: trials on other nodes ask its State API.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --dashboard-host=0.0.0.0 \
  -- env RAY_ADDRESS="$address" "${sweep[@]}"
