#!/bin/bash
# A run on two nodes: the first serves, the second trains. sbatch tools/slurm.sh RECIPE /shared/OUTPUT
#SBATCH --job-name=zero
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
recipe=$1 output=$2
port=8000
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
ZERO_SERVER_TOKEN=$(openssl rand -hex 32)
export ZERO_SERVER_TOKEN

srun --nodes=1 --nodelist="${nodes[0]}" --export=ALL zero serve "$recipe" --host 0.0.0.0 --port "$port" &

# The token stays out of the list of processes.
until curl -fs -o /dev/null -K - "http://${nodes[0]}:$port/health" <<< "header = \"Authorization: Bearer $ZERO_SERVER_TOKEN\""; do
    sleep 5
    kill -0 %1 || { echo "the server ended" >&2; exit 1; }
done

# A job that is queued again finds its folder, and goes on.
resume=$([ -f "$output/recipe.yaml" ] && echo --resume || true)
exec srun --nodes=1 --nodelist="${nodes[1]}" --export=ALL zero run "$recipe" --output "$output" $resume \
    --set "rollout.server.urls=[http://${nodes[0]}:$port]"
