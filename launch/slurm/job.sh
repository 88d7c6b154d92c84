# What the batch scripts share; each sources it from the project's root. Bash alone: nothing here is science.
set -uo pipefail

if [ -z "${N2S_PYTHON:-}" ]; then
    N2S_PYTHON=python3
    [ ! -x .venv/bin/python ] || N2S_PYTHON=$PWD/.venv/bin/python
fi
export N2S_PYTHON

# One of an array's tasks has the array's own number as SLURM_JOB_ID, and what is done to that is done to all tasks.
this_job=${SLURM_JOB_ID:-}
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || this_job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

stopping=  # Slurm wants this job to leave: its time is up, or somebody asked by scancel --batch --signal=USR1
cancelled= # the job is over, whatever becomes of its ranks: scancel, or Slurm requeues it by itself
trap 'stopping=1' USR1
trap 'cancelled=1' TERM

on_stop() { :; }

# Run one task a node and return its exit code. bash runs traps only between commands, so srun is waited for in the
# background; on_stop is called once, as soon as this job is to leave.
# --cpu-bind=none: a task gets all cores of the job, not one. --wait: what is left 10 minutes after the first node ended,
# such as a rank that waits for others that died, is killed; longer than Slurm takes to notice the loss of a node.
on_each_node() {
    local code step told=
    srun --ntasks-per-node=1 --cpu-bind=none --wait=600 "$@" &
    step=$!
    while :; do
        wait "$step"
        code=$?
        kill -0 "$step" 2>/dev/null || return "$code"
        if [ "$stopping" ] && [ -z "$told" ]; then
            told=1
            on_stop
        fi
    done
}

# Put this job back into the queue, under its own number, and end it.
requeue() {
    echo "requeue $this_job: $1"
    scontrol requeue "$this_job" && exit 0
    exit 1
}
