"""Throw-away servers for tests, in temporary folders: a real PostgreSQL cluster, a real SLURM of one node."""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def find(program, *folders):
    """The path of a program, on PATH or matching one of the folders' patterns; None if it is not there."""
    found = [path for folder in folders for path in sorted(glob.glob(f"{folder}/{program}"), reverse=True)]
    return shutil.which(program) or next(iter(found), None)


def missing(what, variable):
    """Skip the test, or fail it where ``variable`` says that ``what`` must be there."""
    (pytest.fail if os.environ.get(variable) == "1" else pytest.skip)(f"{what} is not installed")


@contextmanager
def postgres():
    """A cluster without a network port; gives the URL of its databases up to the name's place, ``{}``."""
    initdb = find("initdb", "/usr/lib/postgresql/*/bin")
    if initdb is None:
        missing("PostgreSQL", "FFN_REQUIRE_POSTGRES")
    control = str(Path(initdb).resolve().parent / "pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="ffn-postgres-"))
    user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    quick = f"-c listen_addresses= -c fsync=off -c synchronous_commit=off -c max_connections=200 -k {folder}"
    data = str(folder / "data")

    def call(*command):
        subprocess.run([*user, *command], check=True, capture_output=True, cwd=folder, timeout=60)

    try:
        call(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
        call(control, "-D", data, "-w", "-l", str(folder / "log"), "-o", quick, "start")
        try:
            yield f"postgresql://postgres@/{{}}?host={folder}"
        finally:
            call(control, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def slurm():
    """A SLURM of one node with its own configuration, ports and key; SLURM_CONF names the file it gives."""
    programs = [find(name, "/usr/sbin") for name in ("munged", "mungekey", "slurmctld", "slurmd")]
    if None in programs:
        missing("SLURM", "FFN_REQUIRE_SLURM")
    if os.geteuid() != 0:
        missing("a root user's SLURM", "FFN_REQUIRE_SLURM")
    munged, mungekey, slurmctld, slurmd = programs
    folder = Path(tempfile.mkdtemp(prefix="ffn-slurm-", dir="/var/tmp"))  # munge wants no folder all may write
    (folder / "state").mkdir()
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(SLURM.format(host=host, ports=free_ports(2), folder=folder))
    key = folder / "munge.key"
    subprocess.run([mungekey, "--create", f"--keyfile={key}"], check=True)
    munge = [munged, "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/seed"]
    env = os.environ | {"SLURM_CONF": str(configuration)}
    commands = [munge, [slurmctld, "-D", "-f", str(configuration)], [slurmd, "-D", "-f", str(configuration)]]
    servers = []
    try:
        for command in commands:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            servers.append(subprocess.Popen(command, env=env, **quiet))
            time.sleep(0.3)
        deadline = time.monotonic() + 60
        while "idle" not in _output(["sinfo", "--noheader", "--format=%t"], env):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.3)
        yield str(configuration)
    finally:
        _output(["scancel", "--user=root"], env)
        deadline = time.monotonic() + 20
        while _output(["squeue", "--noheader"], env) and time.monotonic() < deadline:
            time.sleep(0.2)
        for server in reversed(servers):
            server.terminate()
        for server in servers:
            with suppress(subprocess.TimeoutExpired):
                server.wait(10)
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _output(command, env):
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False).stdout
