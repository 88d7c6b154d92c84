#!/usr/bin/env bash
# From a folder of images to results.json: submits build_shards, train and evaluate, each after the one before it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
    cat <<'END'
usage: launch/slurm/pipeline.sh --images DIR --config FILE --run-dir DIR --benchmark NAME=DIR
           [--shards DIR] [--build OPTIONS] [--evaluate OPTIONS] [--sbatch OPTIONS] [--wait]
           [--KEY VALUE ...]

  --images DIR           what to train on: a folder, zip or tar of images
  --config FILE          such as configs/gaussian25.yaml
  --run-dir DIR          checkpoints, metrics, logs, and evaluation/results.json
  --benchmark NAME=DIR   what to evaluate on; may be repeated
  --shards DIR           where the shards go (RUN_DIR/shards)
  --build OPTIONS        for tools/build_shards.py, in one word: --build '--tile-size 128'
  --evaluate OPTIONS     for n2s_dist.evaluate, in one word: --evaluate '--noise gaussian:25 --noise gamma:50'
  --sbatch OPTIONS       for all three jobs, in one word: --sbatch '--nodes 2 --gpus-per-node 8 --cpus-per-task 64'
  --wait                 return when the last job has ended, with its exit code
  --KEY VALUE            everything else overrides the config: --train.total_samples 40000

Paths are seen from the project's root. Prints each job's number.
END
}

fail() {
    echo "error: $1" >&2
    exit 2
}

images= config= run_dir= shards= wait=
build=() evaluate=() sbatch=() benchmarks=() overrides=() submitter=(sbatch)
while [ $# -gt 0 ]; do
    case $1 in
    --images | --config | --run-dir | --run_dir | --shards | --build | --evaluate | --sbatch | --benchmark)
        [ $# -gt 1 ] || fail "$1 needs a value: see --help"
        case $1 in
        --images) images=$2 ;;
        --config) config=$2 ;;
        --run-dir | --run_dir) run_dir=$2 ;;
        --shards) shards=$2 ;;
        --benchmark) benchmarks+=(--benchmark "$2") ;;
        --build) read -ra build <<<"$2" ;;
        --evaluate) read -ra evaluate <<<"$2" ;;
        --sbatch) read -ra sbatch <<<"$2" ;;
        esac
        shift 2
        ;;
    --wait) wait=--wait && shift ;;
    -h | --help) usage && exit ;;
    *) overrides+=("$1") && shift ;;
    esac
done
[ "$images" ] || fail "--images is missing: name a folder of images to train on"
[ -e "$images" ] || fail "$images does not exist: --images names a folder, zip or tar of images"
[ "$config" ] || fail "--config is missing: name a file such as configs/gaussian25.yaml"
[ -f "$config" ] || fail "$config does not exist: --config names a file such as configs/gaussian25.yaml"
[ "$run_dir" ] || fail "--run-dir is missing: name a folder for checkpoints, metrics and results"
[ ${#benchmarks[@]} -gt 0 ] || fail "--benchmark is missing: name what to evaluate on, such as kodak24=data/kodak24"
shards=${shards:-$run_dir/shards}
mkdir -p "$run_dir"

# submit NAME AFTER [ARGUMENTS...]
submit() {
    local script=launch/slurm/$1.sbatch options=("${sbatch[@]}" --output="$run_dir/%x-%j.log")
    # A job whose predecessor failed would stay in the queue for ever.
    [ -z "$2" ] || options+=("--dependency=afterok:$2" --kill-on-invalid-dep=yes)
    shift 2
    "${submitter[@]}" --parsable "${options[@]}" "$script" "$@"
}

built=$(submit build_shards "" "$images" --out "$shards" "${build[@]}")
echo "build_shards ${built%%;*}"
trained=$(submit train "${built%%;*}" --config "$config" --run_dir "$run_dir" --data.shards "$shards" "${overrides[@]}")
echo "train ${trained%%;*}"
# With --wait sbatch would hold back what it prints to a pipe until the job has ended.
[ -z "$wait" ] || submitter=(stdbuf -oL sbatch --wait)
submit evaluate "${trained%%;*}" --checkpoint "$run_dir" "${benchmarks[@]}" "${evaluate[@]}" \
    --out "$run_dir/evaluation" |
    while read -r job; do echo "evaluate ${job%%;*}"; done
