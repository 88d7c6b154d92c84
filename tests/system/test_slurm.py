"""The launch files on a real Slurm with two nodes: images to results, requeued and bereft of a node, always the same.

One module-wide cluster and one pipeline, whose training is stopped, bereft of a node, and compared with ranks that
nothing happened to.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support import slurm
from support.held_training import HELD
from support.paths import ROOT
from support.patience import HANG_SEC

from n2s_dist.models import checkpoint
from n2s_dist.shards.reader import read_manifest

SECRET = "-".join(("a", "key", "that", "nobody", "may", "write", "down"))  # a patch may hold this very file
TIMEOUT_SEC = HANG_SEC

SAMPLES = 800
OPTIONS = [
    f"--train.total_samples={SAMPLES}",
    "--train.checkpoint_every_samples=200",
    "--train.validate_every_samples=400",
    "--train.log_every_samples=200",
]
# Of sbatch, for jobs that are held where they are to be disturbed.
HOLD = f"--export=ALL,N2S_PLUGINS=support.held_training,PYTHONPATH={ROOT}:{ROOT / 'tests'}"


@pytest.fixture(scope="module")
def cluster(environment):
    if missing := slurm.missing():
        reason = f"Slurm is not installed ({', '.join(missing)} missing): apt-get install slurm-wlm munge"
        if os.environ.get("N2S_NEEDS_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    with slurm.running() as started:
        passed = {key: environment[key] for key in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "PYTHONUNBUFFERED")}
        started.environment |= {**passed, "N2S_PYTHON": sys.executable, "WANDB_API_KEY": SECRET}
        yield started


class Pipeline(NamedTuple):
    run_dir: Path
    jobs: dict[str, str]
    options: list[str]  # of training, but for --run_dir
    starts: int  # of training


def logs(run_dir: Path) -> str:
    return "".join(f"\n--- {path.name}\n{path.read_text()}" for path in sorted(run_dir.glob("*.log")))


def hold(run_dir: Path, samples_seen: list[int]) -> None:
    run_dir.mkdir(parents=True)
    (run_dir / HELD).write_text(json.dumps(samples_seen))


def wait_for_start(cluster: slurm.Slurm, job: str, run_dir: Path, count: int) -> None:
    """Until training has begun for the count-th time."""

    def begun() -> bool:
        written = logs(run_dir)
        assert cluster.job(job)["JobState"] not in ("COMPLETED", "FAILED", "NODE_FAIL"), written
        return written.count("\nstarting ") + written.count("\ngoing on from ") >= count

    slurm.wait_until(begun, f"start {count}", TIMEOUT_SEC)


def wait_for_checkpoint(run_dir: Path, samples_seen: int) -> None:
    path = run_dir / "checkpoints" / f"samples-{samples_seen:09d}"

    def is_there() -> bool:
        written = logs(run_dir)
        assert not [line for line in written.splitlines() if line.startswith("error: ")], written
        return path.exists()

    slurm.wait_until(is_there, path.name, TIMEOUT_SEC)


def disturb(cluster: slurm.Slurm, job: str, run_dir: Path, signals: list[int]) -> None:
    """Send signals to the training job, each where its start is held, and take its second node away at 600 samples.

    Each of these puts it back into the queue. The node's slurmd and all processes are killed; then it comes back.
    """
    for count, samples_seen in enumerate(signals, start=1):
        wait_for_start(cluster, job, run_dir, count)
        if samples_seen > 8:
            wait_for_checkpoint(run_dir, samples_seen)
        cluster.run("scancel", "--batch", "--signal=USR1", job)
    wait_for_checkpoint(run_dir, 600)
    assert cluster.job(job)["Restarts"] == str(len(signals))
    cluster.lose_node(slurm.NODES[1])
    (run_dir / HELD).unlink()
    requeued = str(len(signals) + 1)
    slurm.wait_until(lambda: cluster.job(job).get("Restarts") == requeued, "the requeue", TIMEOUT_SEC)
    cluster.start_node(slurm.NODES[1])


@pytest.fixture(scope="module")
def pipeline(cluster, photographs, tiny, tmp_path_factory, pytestconfig) -> Pipeline:
    """What pipeline.sh makes of a folder of images on two nodes with one CPU rank each, its training disturbed.

    A signal comes as soon as training has begun, with --thorough two more in its middle. At last a node is lost.
    """
    run_dir = tmp_path_factory.mktemp("pipeline") / "run"
    signals = [8, 200, 400] if pytestconfig.getoption("thorough") else [8]
    hold(run_dir, [*signals, 600])
    overrides = [word for word in tiny if not word.startswith("--data.shards")] + OPTIONS
    config = ROOT / "configs/gaussian25.yaml"
    command = [
        "launch/slurm/pipeline.sh", "--wait", "--images", photographs, "--config", config, "--run_dir", run_dir,
        "--benchmark", f"held-out={photographs}", "--build", "--tile-size 64 --validation-fraction 0.2",
        "--sbatch", f"--nodes 2 --time 60 {HOLD}", *overrides,
    ]  # fmt: skip
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=cluster.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True,
    ) as submitter:  # fmt: skip
        assert submitter.stdout
        try:
            jobs = dict(line.split() for line in itertools.islice(submitter.stdout, 3))
            disturb(cluster, jobs["train"], run_dir, signals)
            code = submitter.wait(TIMEOUT_SEC)
        finally:
            submitter.kill()
    assert code == 0, logs(run_dir)
    options = ["--config", str(config), f"--data.shards={run_dir}/shards", *overrides]
    return Pipeline(run_dir, jobs, options, starts=len(signals) + 2)


def test_a_folder_of_images_becomes_results_on_two_nodes(cluster, pipeline, photographs):
    run_dir, jobs = pipeline.run_dir, pipeline.jobs
    assert list(jobs) == ["build_shards", "train", "evaluate"]
    for name, number in jobs.items():
        job = cluster.job(number)
        restarts = pipeline.starts - 1 if name == "train" else 0
        assert (job["NumNodes"], job["JobState"], job["Restarts"]) == ("2", "COMPLETED", str(restarts)), logs(run_dir)
        written = (run_dir / f"n2s-{name.replace('_', '-')}-{number}.log").read_text()
        if name == "build_shards":
            assert "node 1 of 2 did its share" in written
            assert sum(split.images for split in read_manifest(run_dir / "shards").splits.values()) == 5
        else:
            for rank, node in enumerate(slurm.NODES):
                assert f"node {node}: ranks {rank} to {rank} of 2" in written
            assert "2 rank(s)" in written
    results = json.loads((run_dir / "evaluation/results.json").read_text())
    (cell,) = results["cells"]
    assert {image["name"] for image in cell["images"]} == {path.name for path in photographs.iterdir()}
    assert cell["benchmark"] == "held-out" and cell["samples_seen"] == SAMPLES


def test_signals_and_the_loss_of_a_node_change_no_weight(pipeline, fleet, tmp_path):
    """They are those of two ranks without Slurm that nothing happened to."""
    undisturbed = tmp_path / "undisturbed"
    assert fleet(2, [*pipeline.options, "--run_dir", undisturbed]).wait() == [0, 0]
    assert not (pipeline.run_dir / "stopped").exists()
    assert weights(pipeline.run_dir) == weights(undisturbed)


def weights(run_dir: Path) -> bytes:
    last = checkpoint.locate(run_dir)
    assert last.name == f"samples-{SAMPLES:09d}"
    return (last / "model.safetensors").read_bytes()


def test_the_run_says_which_code_it_ran_and_keeps_no_secret(pipeline):
    """The jobs had a key of wandb in their environment; it is in no file that they wrote."""
    code = pipeline.run_dir / "code"
    starts = [json.loads(line) for line in (code / "starts.jsonl").read_text().splitlines()]
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    which = (head.stdout.strip() or None, pipeline.jobs["train"])
    assert [(start["commit"], start["slurm_job_id"]) for start in starts] == [which] * pipeline.starts
    assert {"torch", "accelerate"} <= {line.split("==")[0] for line in (code / "requirements.txt").read_text().split()}
    files = [path for path in pipeline.run_dir.rglob("*") if path.is_file()]
    assert files and not [path for path in files if SECRET.encode() in path.read_bytes()]


# In Python's place: freeze_run.py notes a start; training waits to be told, or for the file to go.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path

run_dir = Path(sys.argv[-1])
if sys.argv[1] == "tools/freeze_run.py":
    with (run_dir / "starts").open("a") as stream:
        print(os.environ["SLURM_JOB_ID"], file=stream)
    print(run_dir)
elif "n2s_dist.train" in sys.argv:
    def leave(*_):
        (run_dir / "stopped").touch()
        sys.exit(1)

    signal.signal(signal.SIGUSR1, leave)
    (run_dir / "begun").touch()
    while (run_dir / "held").exists() and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        time.sleep(0.05)
"""


def test_one_task_of_a_job_array_is_requeued_and_the_others_go_on(cluster, tmp_path):
    """Of two tasks, each on a node of its own, the one that has the whole array's number is told to leave.

    What training itself does when it is told, the test above has shown: here a small program stands in for it.
    """
    script, python = tmp_path / "array.sbatch", tmp_path / "python"
    script.write_text(
        "#!/bin/bash\n#SBATCH --requeue --open-mode=append --ntasks-per-node=1\n"
        f'exec launch/slurm/train.sbatch --run_dir "{tmp_path}/run-$SLURM_ARRAY_TASK_ID"\n'
    )
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{tmp_path}/stand_in.py" "$@"\n')
    python.chmod(0o755)
    tasks = [tmp_path / f"run-{task}" for task in range(2)]
    for run_dir in tasks:
        hold(run_dir, [])
    number = cluster.run(
        "sbatch", "--parsable", f"--export=ALL,N2S_PYTHON={python}", "--array=0-1", "--nodes=1", "--exclusive",
        "--time=60", f"--chdir={ROOT}", f"--output={tmp_path}/task-%a.log", script,
    )  # fmt: skip
    assert number.isdigit()
    for run_dir in tasks:
        slurm.wait_until((run_dir / "begun").exists, f"{run_dir.name} to begin", TIMEOUT_SEC)
    of_task = {f"{number}_{task}": cluster.job(f"{number}_{task}")["JobId"] for task in range(2)}
    (told,) = [task for task, job in of_task.items() if job == number]
    (other,) = of_task.keys() - {told}
    cluster.run("scancel", "--batch", "--signal=USR1", told)
    (tasks[int(other[-1])] / HELD).unlink()
    ended = {task: cluster.wait_for_end(task, TIMEOUT_SEC) for task in (told, other)}
    assert {task: (job["JobState"], job["Restarts"]) for task, job in ended.items()} == {
        told: ("COMPLETED", "1"), other: ("COMPLETED", "0"),
    }, logs(tmp_path)  # fmt: skip
    assert [len((run_dir / "starts").read_text().splitlines()) for run_dir in tasks] == [
        2 if told.endswith(f"_{task}") else 1 for task in range(2)
    ]


def test_a_users_mistake_ends_the_job_with_its_exit_code_and_no_requeue(cluster, tmp_path):
    number = cluster.run(
        "sbatch", "--parsable", f"--chdir={ROOT}", f"--output={tmp_path}/log", ROOT / "launch/slurm/train.sbatch",
        "--config", ROOT / "configs/gaussian25.yaml",
    )  # fmt: skip
    ended = cluster.wait_for_end(number, TIMEOUT_SEC)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0")
    assert "error: --run-dir is missing" in (tmp_path / "log").read_text()
