"""How jobs start, without a cluster: what launchers are told, mistakes in one line, what a run writes of its code."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from support.paths import ROOT
from support.patience import HANG_SEC

ACCELERATE = ROOT / "launch/accelerate"


@pytest.mark.parametrize(
    ("name", "kind", "ranks"),
    [("2cpu", "MULTI_GPU", 2), ("1gpu", "NO", 1), ("8gpu", "MULTI_GPU", 8), ("multinode", "MULTI_GPU", 2)],
)
def test_accelerate_takes_every_file(name, kind, ranks):
    """It rejects unknown keys. The types for CPUs would start a single process, without a word."""
    config = load_config_from_file(str(ACCELERATE / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.use_cpu) == (kind, ranks, False)


@pytest.fixture
def node(tmp_path):
    """What node.sh would launch on one node of a job, as the words of a command."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-4]" ] && printf "n1\\nn2\\nn3\\nn4\\n"\n')
    scontrol.chmod(0o755)

    def launched(**variables: object) -> tuple[list[str], dict[str, str]]:
        given = {"SLURM_STEP_NODELIST": "n[1-4]", "SLURM_JOB_ID": 42, "SLURMD_NODENAME": "n3", **variables}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [ROOT / "launch/slurm/node.sh", "-m", "n2s_dist.train", "--run_dir", "a b"], cwd=ROOT,
            env={"PATH": path, "N2S_PYTHON": "echo", **{key: str(value) for key, value in given.items()}},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        words = done.stdout.splitlines()[-1].split()
        return words, dict(pairwise(words))

    return launched


def test_ranks_are_the_gpus_and_addresses_are_slurms(node):
    words, options = node(SLURM_STEP_NUM_NODES=4, SLURM_PROCID=2, SLURM_GPUS_ON_NODE=8)
    assert options["--config_file"] == "launch/accelerate/multinode.yaml"
    assert (options["--num_machines"], options["--num_processes"], options["--machine_rank"]) == ("4", "32", "2")
    assert options["--main_process_ip"] == "n1" and 20_000 <= int(options["--main_process_port"]) < 30_000
    assert words[-5:] == ["-m", "n2s_dist.train", "--run_dir", "a", "b"]


def test_without_gpus_ranks_are_what_the_variable_says(node):
    assert node(SLURM_STEP_NUM_NODES=4, SLURM_PROCID=0)[1]["--num_processes"] == "4"
    assert node(SLURM_STEP_NUM_NODES=4, SLURM_PROCID=0, N2S_CPU_RANKS=3)[1]["--num_processes"] == "12"


def test_all_nodes_meet_at_one_port_and_the_next_start_at_another(node):
    def port(**variables: object) -> str:
        return node(SLURM_STEP_NUM_NODES=4, **variables)[1]["--main_process_port"]

    assert port(SLURM_PROCID=0) == port(SLURM_PROCID=3) != port(SLURM_PROCID=0, SLURM_RESTART_COUNT=1)


def test_one_rank_needs_no_rendezvous(node):
    words, options = node(SLURM_STEP_NUM_NODES=1, SLURM_PROCID=0)
    assert options["--config_file"] == "launch/accelerate/1gpu.yaml" and "--main_process_ip" not in words
    assert node(SLURM_STEP_NUM_NODES=1, SLURM_PROCID=0, SLURM_GPUS_ON_NODE=8)[1]["--num_processes"] == "8"


@pytest.mark.parametrize(
    "said, given, bound",
    [("yes", {}, "1"), ("lacking", {}, ""), ("", {}, ""), ("yes", {"ACCELERATE_CPU_AFFINITY": 0}, "0")],
)
def test_ranks_are_bound_to_the_cores_beside_their_gpus(node, tmp_path, said, given, bound):
    """Where the job has the whole node and the library that knows them is there, unless the user says otherwise."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {said} || echo "bound=$ACCELERATE_CPU_AFFINITY"\n')
    python.chmod(0o755)
    for gpus, expected in ((8, bound), (0, str(given.get("ACCELERATE_CPU_AFFINITY", "")))):
        words, _ = node(SLURM_STEP_NUM_NODES=1, SLURM_PROCID=0, SLURM_GPUS_ON_NODE=gpus, N2S_PYTHON=python, **given)
        assert words == [f"bound={expected}"]


def test_what_asks_for_the_cores_beside_gpus_runs(tmp_path):
    """It says one of its three words on any machine."""
    code = (ROOT / "launch/slurm/node.sh").read_text().partition("near='")[2].partition("'\n")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("yes", "lacking", "")


def test_batch_scripts_requeue_and_leave_the_size_of_jobs_to_the_user():
    scripts = list((ROOT / "launch/slurm").glob("*.sbatch"))
    assert len(scripts) == 3
    for path in scripts:
        options = {line.split()[1] for line in path.read_text().splitlines() if line.startswith("#SBATCH")}
        assert {"--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= options
        assert not [option for option in options if option.startswith(("--nodes", "--gpus", "--cpus", "--time"))]


# --- train.sbatch -----------------------------------------------------------------------------------------


@pytest.fixture
def batch(tmp_path, environment):
    """Run train.sbatch with programs in Slurm's place: srun does what `step` says, others write down what they do.

    What freeze_run.py does has tests of its own, and takes seconds: here it says the run directory alone.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    run_dir, calls = tmp_path / "run", tmp_path / "calls"

    def program(name: str, text: str) -> None:
        (programs / name).write_text(f"#!/bin/bash\necho {name} $* >> {calls}\n{text}\n")
        (programs / name).chmod(0o755)

    def run(step: str, signals: str = "", **variables: str) -> tuple[int, list[str], str]:
        """Exit code, calls of Slurm's programs but srun, and what was printed. signals: sent once srun runs."""
        program("srun", f"cd {run_dir}\ntouch running\n{step}")
        program("scancel", f"touch {run_dir}/told")
        program("scontrol", "")
        (programs / "python").write_text(
            f'#!/bin/sh\n[ "$1" = tools/freeze_run.py ] && mkdir -p {run_dir} && echo {run_dir}\n'
        )
        (programs / "python").chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.Popen(
            [ROOT / "launch/slurm/train.sbatch", "--config", "configs/gaussian25.yaml", "--run_dir", run_dir],
            cwd=ROOT, text=True,
            env=environment | {"PATH": path, "N2S_PYTHON": str(programs / "python"), "SLURM_JOB_ID": "42"} | variables,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            for word in signals.split():
                while not (run_dir / "running").exists():
                    assert process.poll() is None, process.stdout.read()
                    time.sleep(0.01)
                process.send_signal(getattr(signal, word))
                time.sleep(0.1)
            out, _ = process.communicate(timeout=HANG_SEC)
        finally:
            process.kill()
        return process.returncode, [line for line in calls.read_text().splitlines() if line[:4] != "srun"], out

    run.run_dir = run_dir
    return run


UNTIL_TOLD = "until [ -e told ]; do sleep 0.02; done"
REQUEUE = "scontrol requeue 42"


def test_a_job_has_trainings_exit_code(batch):
    assert batch("exit 0")[:2] == (0, [])
    assert batch("exit 2")[:2] == (2, [])


def test_srun_starts_training_on_each_node_with_the_same_arguments(batch, tmp_path):
    batch("exit 0")
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call == (
        "srun --ntasks-per-node=1 --cpu-bind=none --wait=600 launch/slurm/node.sh -m n2s_dist.train "
        f"--config configs/gaussian25.yaml --run_dir {batch.run_dir}"
    )


def test_a_signal_goes_to_the_ranks_and_the_job_back_to_the_queue(batch):
    code, calls, out = batch(f"{UNTIL_TOLD}; touch stopped; exit 1", "SIGUSR1 SIGUSR1 SIGUSR1")
    assert (code, calls) == (0, ["scancel --signal=USR1 42", REQUEUE]), out


def test_a_task_of_an_array_signals_and_requeues_itself_alone(batch):
    """One of the tasks has the number of the whole array."""
    array = {"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "3"}
    code, calls, out = batch(f"{UNTIL_TOLD}; touch stopped; exit 1", "SIGUSR1", **array)
    assert (code, calls) == (0, ["scancel --signal=USR1 42_3", "scontrol requeue 42_3"]), out


def test_ranks_that_were_asked_to_leave_directly_are_requeued_too(batch):
    assert batch("touch stopped; exit 1")[:2] == (0, [REQUEUE])


def test_a_run_that_ends_before_it_hears_the_signal_is_over(batch):
    assert batch(f"{UNTIL_TOLD}; exit 0", "SIGUSR1")[:2] == (0, ["scancel --signal=USR1 42"])


def test_a_run_that_fails_after_the_signal_has_failed(batch):
    assert batch(f"{UNTIL_TOLD}; exit 1", "SIGUSR1")[:2] == (1, ["scancel --signal=USR1 42"])


def test_a_signal_before_the_launchers_are_ready_is_a_requeue(batch):
    assert batch(f"{UNTIL_TOLD}; exit 138", "SIGUSR1")[:2] == (0, ["scancel --signal=USR1 42", REQUEUE])
    assert batch("exit 138")[0] == 138  # nobody asked: SIGUSR1 came from elsewhere


def test_a_cancelled_job_is_not_requeued(batch):
    """scancel JOB ends with the checkpoint on the disk, and with the job."""
    code, calls, _ = batch("sleep 0.5; touch stopped; exit 1", "SIGTERM")
    assert (code, calls) == (1, [])


def test_what_an_earlier_run_left_is_no_reason_to_requeue(batch):
    batch.run_dir.mkdir()
    (batch.run_dir / "stopped").touch()
    assert batch("exit 2")[:2] == (2, [])


def test_scripts_say_where_they_have_to_be_started(tmp_path):
    for name in ("train", "evaluate", "build_shards"):
        command = ["bash", ROOT / f"launch/slurm/{name}.sbatch"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and f"error: {tmp_path} is not the project's root" in done.stderr


# --- pipeline.sh ------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(tmp_path):
    """pipeline.sh with an sbatch that writes down its words and hands out numbers from 11 on."""
    script = tmp_path / "sbatch"
    script.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/jobs\necho $((10 + $(wc -l < {tmp_path}/jobs)))\n'
    )
    script.chmod(0o755)

    def run(*words: object) -> subprocess.CompletedProcess:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [ROOT / "launch/slurm/pipeline.sh", *map(str, words)], cwd=tmp_path, env={"PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_each_job_waits_for_the_one_before_it(pipeline, tmp_path):
    (tmp_path / "images").mkdir()
    run_dir = tmp_path / "runs/a"
    done = pipeline(
        "--images", tmp_path / "images", "--config", "configs/demo.yaml", "--run_dir", run_dir, "--benchmark", "x=b/x",
        "--benchmark", "y=b/y", "--sbatch", "--nodes 2", "--build", "--tile-size 64", "--seed", 8, "--wait",
        "--evaluate", "--noise gamma:50 --ensemble",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "build_shards 11\ntrain 12\nevaluate 13\n"), done.stderr
    build, train, evaluate = (tmp_path / "jobs").read_text().splitlines()
    log = f"--output={run_dir}/%x-%j.log"
    assert build == (
        f"--parsable --nodes 2 {log} launch/slurm/build_shards.sbatch {tmp_path}/images "
        f"--out {run_dir}/shards --tile-size 64"
    )
    assert train == (
        f"--parsable --nodes 2 {log} --dependency=afterok:11 --kill-on-invalid-dep=yes launch/slurm/train.sbatch "
        f"--config configs/demo.yaml --run_dir {run_dir} --data.shards {run_dir}/shards --seed 8"
    )
    assert evaluate == (
        f"--wait --parsable --nodes 2 {log} --dependency=afterok:12 --kill-on-invalid-dep=yes "
        f"launch/slurm/evaluate.sbatch --checkpoint {run_dir} --benchmark x=b/x --benchmark y=b/y "
        f"--noise gamma:50 --ensemble --out {run_dir}/evaluation"
    )


@pytest.mark.parametrize("lacking", ["--images", "--config", "--run-dir", "--benchmark"])
def test_what_is_missing_is_named_before_anything_is_submitted(pipeline, tmp_path, lacking):
    given = {"--images": tmp_path, "--config": "configs/demo.yaml", "--run-dir": tmp_path / "run", "--benchmark": "x=y"}
    done = pipeline(*(word for key, value in given.items() if key != lacking for word in (key, value)))
    assert done.returncode == 2 and done.stderr.startswith(f"error: {lacking} is missing") and not done.stdout
    assert not (tmp_path / "jobs").exists() and not (tmp_path / "run").exists()


def test_paths_that_do_not_exist_are_named(pipeline, tmp_path):
    rest = ["--run_dir", tmp_path / "run", "--benchmark", "x=y"]
    assert "nowhere does not exist" in pipeline("--images", "nowhere", "--config", "configs/demo.yaml", *rest).stderr
    assert "no.yaml does not exist" in pipeline("--images", tmp_path, "--config", "no.yaml", *rest).stderr
    assert "--images needs a value" in pipeline("--images").stderr
    assert not (tmp_path / "jobs").exists()


# --- freeze_run.py ----------------------------------------------------------------------------------------


def test_each_start_is_written_down(load_tool, cli, tmp_path, monkeypatch):
    """The folder may be the command line's or, as in the configuration that training writes into it, the file's."""
    tool, run_dir, config = load_tool("freeze_run"), tmp_path / "run", tmp_path / "a.yaml"
    config.write_text(f"run_dir: {run_dir}\n")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert cli(tool.main, "--run_dir", run_dir, "--seed=1").out == f"{run_dir}\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert cli(tool.main, "--config", config).out == f"{run_dir}\n"
    first, second = (json.loads(line) for line in (run_dir / "code/starts.jsonl").read_text().splitlines())
    assert first["arguments"] == ["--run_dir", str(run_dir), "--seed=1"]
    assert "slurm_restart_count" not in first and (second["slurm_job_id"], second["slurm_restart_count"]) == ("7", "1")


def test_changes_since_the_commit_are_kept(load_tool, cli, tmp_path, monkeypatch):
    """In a repository of its own: a clean start, and one with a change that the patch gives back."""
    tool = load_tool("freeze_run")
    project = tmp_path / "project"
    project.mkdir()

    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", project, *identity, *words], check=True, capture_output=True)

    git("init")
    (project / "file.txt").write_text("before\n")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(tool, "ROOT", project)
    patch = tmp_path / "run/code/changes.patch"
    cli(tool.main, "--run_dir", tmp_path / "run")
    assert patch.read_text() == ""
    (project / "file.txt").write_text("after\n")
    cli(tool.main, "--run_dir", tmp_path / "run")
    clean, dirty = (json.loads(line) for line in (tmp_path / "run/code/starts.jsonl").read_text().splitlines())
    assert (clean["dirty"], dirty["dirty"]) == (False, True) and clean["commit"] == dirty["commit"]
    git("checkout", ".")
    git("apply", str(patch))
    assert (project / "file.txt").read_text() == "after\n"


def test_a_checkout_of_another_user_is_asked_for_its_commit_all_the_same(load_tool, cli, tmp_path, monkeypatch):
    """Git takes it for dubious, as in many containers; then no commit was written down, without a word."""
    tool, project = load_tool("freeze_run"), tmp_path / "project"
    project.mkdir()
    for words in (["init"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", project, *words], check=True, capture_output=True)
    monkeypatch.setattr(tool, "ROOT", project)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert "dubious" in subprocess.run(["git", "-C", project, "status"], capture_output=True, text=True).stderr
    cli(tool.main, "--run_dir", tmp_path / "run")
    (start,) = (json.loads(line) for line in (tmp_path / "run/code/starts.jsonl").read_text().splitlines())
    assert len(start["commit"]) == 40 and start["dirty"] is False


def test_a_git_that_says_nothing_is_warned_of(load_tool, cli, tmp_path, monkeypatch):
    tool = load_tool("freeze_run")
    (tmp_path / "project/.git").mkdir(parents=True)
    monkeypatch.setattr(tool, "ROOT", tmp_path / "project")
    monkeypatch.setattr("n2s_dist.utils.errors._warned", set())
    err = cli(tool.main, "--run_dir", tmp_path / "run").err
    assert err.count("warning: git does not say which commit this is (") == 1


def test_outside_git_the_commit_is_not_known(load_tool, cli, tmp_path, monkeypatch):
    tool = load_tool("freeze_run")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    cli(tool.main, "--run_dir", tmp_path / "run")
    start = json.loads((tmp_path / "run/code/starts.jsonl").read_text())
    assert start["commit"] is None and start["dirty"] is None


def test_a_run_without_a_folder_is_refused(load_tool, cli):
    assert "--run-dir is missing" in cli(load_tool("freeze_run").main, "--seed=1").error()
