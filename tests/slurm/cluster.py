"""A throw-away SLURM cluster on this machine: several nodes with pretended GPUs, without systemd, cgroups or database.

Needs slurm-wlm and munge (Debian 12: 22.05) and root. Starts in about a second. Stops what it started by its pid files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol")
NULL_DEVICE_MAJOR = 240  # for local use; no driver
PATIENCE_S = 90.0


def unavailable() -> str:
    """Return why no cluster can be started here; "" if it can."""
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root can start the daemons of SLURM"


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster; its nodes are n1, n2, ... with two GPUs each."""

    folder: Path
    num_nodes: int

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str) -> str:
        """Run a command of SLURM, and return what it prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def states(self, job: str) -> dict[str, str]:
        """Return the state of each task of an array that has begun, or of a job."""
        lines = self.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%i %T").split(
            "\n"
        )
        return dict(line.split() for line in lines if line.strip())

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: It does not hold in time; with the queue and the ends of the logs.
        """
        until = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > until:
                queue = self.run("squeue", "--states=all", "--array")
                logs = "\n".join(
                    f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
                    for path in (self.folder / "log").glob("*.log")
                )
                raise AssertionError(f"{what} did not come about\n{queue}\n{logs}")
            time.sleep(0.25)

    def wait_for_end(self, job: str) -> dict[str, str]:
        """Wait until all tasks of a job have ended, and return their states."""
        active = {"PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING", "SUSPENDED", "REQUEUE_HOLD"}
        self.wait(lambda: not active & set(self.states(job).values()), f"the end of job {job}")
        return self.states(job)


@contextlib.contextmanager
def running(
    folder: Path, *, num_nodes: int = 2, max_array_size: int = 1001, kill_wait_s: int = 10
) -> Iterator[Cluster]:
    """Start a cluster, and stop it after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder, num_nodes)
    _start_munge()
    _configure(cluster, max_array_size, kill_wait_s)
    daemons = [[find("slurmctld"), "-c"]]
    daemons += [[find("slurmd"), "-N", f"n{number}"] for number in range(1, num_nodes + 1)]
    try:
        for words in daemons:
            subprocess.run([str(word) for word in words], env=cluster.environment, check=True)
        cluster.wait(lambda: _num_idle(cluster) == num_nodes, "an idle cluster")
        yield cluster
    finally:
        _stop(cluster)


def _num_idle(cluster: Cluster) -> int:
    words = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    done = subprocess.run(words, env=cluster.environment, capture_output=True, text=True, check=False)
    return len(set(done.stdout.split()))


def _stop(cluster: Cluster) -> None:
    with contextlib.suppress(AssertionError):
        if ids := sorted(set(cluster.run("squeue", "--noheader", "--format=%A").split())):
            cluster.run("scancel", *ids)
            cluster.wait(lambda: not cluster.run("squeue", "--noheader").strip(), "an empty queue")
    for pid_file in cluster.folder.glob("*.pid"):
        with contextlib.suppress(ValueError, ProcessLookupError):
            os.kill(int(pid_file.read_text()), 15)


def _start_munge() -> None:
    """Start munge, which signs the messages of SLURM, unless it runs; with a new key where there is none."""
    if subprocess.run("munge -n | unmunge", shell=True, capture_output=True, check=False).returncode == 0:
        return
    key = Path("/etc/munge/munge.key")
    for path in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge"):
        os.makedirs(path, exist_ok=True)
        shutil.chown(path, "munge", "munge")
    os.chmod("/run/munge", 0o755)
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    words = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", str(find("munged"))]
    started = subprocess.run(words, capture_output=True, text=True, check=False)
    for _ in range(50):  # another test may have started it at the same time
        if subprocess.run("munge -n | unmunge", shell=True, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"munge does not run: {started.stderr}")


def _configure(cluster: Cluster, max_array_size: int, kill_wait_s: int) -> None:
    folder, host, base_port = cluster.folder, socket.gethostname().split(".")[0], _free_ports(cluster.num_nodes + 1)
    names = f"n[1-{cluster.num_nodes}]"
    for name in ("state", "log", "gpu", "cgroup", *(f"spool/n{number + 1}" for number in range(cluster.num_nodes))):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(2):  # plain files are refused as devices
        device = folder / "gpu" / f"fake{number}"
        if not device.exists():
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(NULL_DEVICE_MAJOR, number))
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu/fake[0-1]\n")
    # slurmd 22.05 opens a plugin for cgroups even when none is used; this one needs neither systemd nor a mount
    (folder / "cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/cgroup\nCgroupAutomount=no\n"
    )
    (folder / "slurm.conf").write_text(
        f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={base_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a job that is put into the queue again waits that long, 120 s by default
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=3600
MaxArraySize={max_array_size}
KillWait={kill_wait_s}
SlurmdTimeout=60
ReturnToService=2
# the nodes pretend to have more than the machine has
SlurmdParameters=config_overrides
NodeName={names} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{base_port + 1}-{base_port + cluster.num_nodes}] CPUs=4 \
Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""
    )


def _free_ports(num: int) -> int:
    """Return the first of some consecutive ports on which nobody listens."""
    for first in range(17000 + os.getpid() % 400 * 10, 29000, 10):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + num):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")
