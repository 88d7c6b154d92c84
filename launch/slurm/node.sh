#!/usr/bin/env bash
# Start the ranks of one node:  srun --ntasks-per-node=1 launch/slurm/node.sh -m n2s_dist.train --config ...
#
# srun runs this once on each node, so that everything Slurm says of a node is read on that node: in a batch script
# SLURM_PROCID and the like are those of the first. Ranks a node: its GPUs, or N2S_CPU_RANKS (1) without any.
set -euo pipefail
# The ranks save and leave upon SIGUSR1, and set their own handlers; the launcher above them must not die of it.
trap '' USR1

near='
import importlib.util, os
if len(os.sched_getaffinity(0)) == os.cpu_count() and os.path.exists("/sys/devices/system/node/node1"):
    print("yes" if importlib.util.find_spec("pynvml") else "lacking")
'
ranks=${SLURM_GPUS_ON_NODE:-0}
if [ "$ranks" -gt 0 ]; then
    # Each rank loads, launches and draws beside the others' Python: with fewer cores its GPU waits for it.
    cores=$((${SLURM_CPUS_ON_NODE:-0} / ranks))
    [ "$cores" -eq 0 ] || [ "$cores" -ge 4 ] ||
        echo "warning: $cores core(s) for each GPU of ${SLURMD_NODENAME:-this node}: ask for 4 or more, such as" \
            "--cpus-per-task $((8 * ranks))" >&2
    # Each rank stays on the cores beside its GPU, where the job has all cores of a node with more than one memory.
    if [ -z "${ACCELERATE_CPU_AFFINITY:-}" ]; then
        case $("${N2S_PYTHON:-python3}" -c "$near") in
        yes) export ACCELERATE_CPU_AFFINITY=1 ;;
        lacking) echo "warning: ranks are not bound to the cores beside their GPUs: that takes nvidia-ml-py" >&2 ;;
        esac
    fi
else
    ranks=${N2S_CPU_RANKS:-1}
fi
total=$((SLURM_STEP_NUM_NODES * ranks))
first=$((SLURM_PROCID * ranks))
echo "node ${SLURMD_NODENAME:-}: ranks $first to $((first + ranks - 1)) of $total"
launch=("${N2S_PYTHON:-python3}" -m accelerate.commands.launch --config_file)
if [ "$total" -eq 1 ]; then
    exec "${launch[@]}" launch/accelerate/1gpu.yaml "$@"
fi
exec "${launch[@]}" launch/accelerate/multinode.yaml \
    --num_machines "$SLURM_STEP_NUM_NODES" --machine_rank "$SLURM_PROCID" --num_processes "$total" \
    --main_process_ip "$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)" \
    --main_process_port $((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 10000)) \
    "$@"
