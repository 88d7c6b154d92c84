"""A real Slurm with two nodes on this machine, for tests: munged, slurmctld and two slurmd, all state in one folder.

Nothing under /etc is read or written. It works as root or as an ordinary user.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.patience import HANG_SEC

NODES = ("127.0.0.1", "127.0.0.2")  # as names, so that what Slurm calls a node also resolves
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

# Intervals are short, so that a requeued job waits for seconds, not for minutes, and a lost node is missed at once.
_CONFIGURATION = """
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
SlurmdTimeout=8
FirstJobId={first_job}
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000,batch_sched_delay=0
MailProg=/bin/true
NodeName=127.0.0.1 NodeHostname=localhost Port={ports[1]} CPUs=8 RealMemory=4000
NodeName=127.0.0.2 NodeHostname=localhost Port={ports[2]} CPUs=8 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Slurm's programs that this machine lacks."""
    return [name for name in _PROGRAMS if not shutil.which(name, path=_PATH)]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_until(ready, what: str, timeout_sec: float = HANG_SEC) -> None:
    deadline = time.monotonic() + timeout_sec
    while not ready():
        assert time.monotonic() < deadline, f"waited {timeout_sec:g} s for {what}"
        time.sleep(1)  # to ask Slurm three times a second takes a tenth of a core


class Slurm:
    """A cluster that runs. `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        for name in [key for key in self.environment if key.startswith(("SLURM_", "SBATCH_")) and key != "SLURM_CONF"]:
            del self.environment[name]
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                folder=self.folder, user=getpass.getuser(), ports=free_ports(3), first_job=1 + secrets.randbelow(50_000)
            )
        )
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "munged.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._run_daemon("munged", "munged", "--foreground", *options)
        wait_until((self.folder / "munge.sock").exists, "munged")
        self._run_daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def start_node(self, node: str) -> None:
        self._run_daemon(node, "slurmd", "-D", "-N", node)

    def wait_for_nodes(self) -> None:
        wait_until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", "two idle nodes")

    def _run_daemon(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.out").open("a")
        self.daemons[name] = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def run(self, *command: object) -> str:
        """What one of Slurm's commands prints; empty when it fails, as it does while the cluster starts."""
        words = list(map(str, command))
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False).stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows about a job, such as JobState and Restarts."""
        return dict(word.split("=", 1) for word in self.run("scontrol", "show", "job", number).split() if "=" in word)

    def wait_for_end(self, number: str, timeout_sec: float) -> dict[str, str]:
        going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")
        wait_until(lambda: self.job(number).get("JobState", "PENDING") not in going, f"job {number}", timeout_sec)
        return self.job(number)

    def lose_node(self, node: str) -> None:
        """As when a machine loses power: slurmd and all that it started die at once."""
        for pid in [self.daemons[node].pid, *self._processes(node)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemons[node].wait()

    def _processes(self, node: str) -> set[int]:
        """All processes of jobs on a node, with the slurmstepd above them."""
        ours, here = f"SLURM_CONF={self.folder}/".encode(), f"SLURMD_NODENAME={node}\0".encode()
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (path / "environ").read_bytes()
                if ours in variables and here in variables:
                    parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    found |= {int(path.name)}
                    if Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd"):
                        found |= {parent}
        return found

    def stop(self) -> None:
        self.run("scancel", "-u", getpass.getuser())
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.run("squeue", "-h"), "an empty queue", 20)
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextlib.contextmanager
def running() -> Iterator[Slurm]:
    """Start a cluster, and stop it with all its jobs. Its folder has a short name, since sockets' names are limited."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        Path(folder).chmod(0o755)
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
