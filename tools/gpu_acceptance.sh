#!/usr/bin/env bash
# On a bare machine with a GPU, in under eight minutes: the GPU's tests, then tools/gpu_acceptance.py's figures.
#
#   tools/gpu_acceptance.sh [--out DIR] [--device gpu|cpu] [--seconds N] [--wheels DIR]
#
# DIR ($OUT, or runs/acceptance) gets acceptance.json, acceptance.txt and run/, the weights of a short run. --wheels: packages
# that this machine's Python lacks, which are put into an environment of its own beside what is there. --device cpu
# rehearses all of it without a GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${OUT:-runs/acceptance} device=gpu seconds=120 wheels=
while [ $# -gt 1 ]; do
    case $1 in
    --out) out=$2 ;;
    --device) device=$2 ;;
    --seconds) seconds=$2 ;;
    --wheels) wheels=$2 ;;
    *) echo "error: $1 is not understood: see the head of tools/gpu_acceptance.sh" >&2 && exit 2 ;;
    esac
    shift 2
done
[ $# -eq 0 ] || { echo "error: $1 needs a value" >&2 && exit 2; }
python=${N2S_PYTHON:-python3}
[ -n "${N2S_PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=$PWD/.venv/bin/python
mkdir -p "$out"
if [ -n "$wheels" ]; then
    "$python" -m venv --system-site-packages "$out/venv" || exit
    "$out/venv/bin/python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl || exit
    python=$out/venv/bin/python
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} WANDB_MODE=disabled
code=0
{
    command -v nvidia-smi >/dev/null && nvidia-smi
    if [ "$device" = gpu ]; then
        timeout 180 "$python" -m pytest -q -m gpu tests/system/test_gpu.py || code=1
    fi
    timeout --signal=INT 470 "$python" tools/gpu_acceptance.py --out "$out" --device "$device" --seconds "$seconds" || code=1
    echo "exit code $code"
} 2>&1 | tee "$out/acceptance.txt"
grep -q '^exit code 0$' "$out/acceptance.txt"
