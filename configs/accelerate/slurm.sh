#!/bin/bash
# Two nodes of 8 GPUs under Slurm: sbatch configs/accelerate/slurm.sh configs/sd2_matting_8x80gb.yaml [--key value ...]
#
# Two minutes before the time is up the job's shell gets SIGUSR1. It passes SIGTERM on to the trainers, which save a
# checkpoint at the next step, and puts the job into the queue again, where the same command goes on from there.
# Not run on a cluster yet.
#SBATCH --job-name=sdseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -uo pipefail

export first gpus
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=$((SLURM_NNODES * 8))
config=${1:?give a config file}
shift

# shellcheck disable=SC2016  # each node's shell fills in its own SLURM_NODEID
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --multi_gpu \
  --num_machines "$SLURM_NNODES" --num_processes "$gpus" --machine_rank "$SLURM_NODEID" \
  --main_process_ip "$first" --main_process_port 29500 --rdzv_backend static \
  train.py --config "$@"' train "$config" "$@" &
steps=$!
trap 'scancel --signal=TERM "$SLURM_JOB_ID.0"; wait $steps; scontrol requeue "$SLURM_JOB_ID"; exit 0' USR1
wait $steps
