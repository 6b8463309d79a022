"""Throw-away servers for tests: a real PostgreSQL cluster in a temporary folder."""

import glob
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
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
