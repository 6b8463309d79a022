"""Work on files of strangers, in a process that may be killed: bounded in time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

# Children fork from a process that has the libraries imported already: they start within milliseconds, and
# without the threads and locks of the app.
_METHOD = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
_CONTEXT = mp.get_context(_METHOD)
if _METHOD == "forkserver":
    _CONTEXT.set_forkserver_preload([__name__, "ffn"])


class Refused(ValueError):
    """The work ended with a ValueError in the child, whose sentence this holds."""


def prepare() -> None:
    """Start the process that children fork from, so that the first visitor does not wait for it."""
    if _METHOD == "forkserver":
        forkserver.ensure_running()


def run(function: Callable, *arguments, seconds: float, megabytes: float):
    """What ``function(*arguments)`` returns, computed in a process of its own.

    Raises:
        Refused: if it raised a ValueError.
        TimeoutError: if it was not done after ``seconds``; the process is killed.
        MemoryError: if it needed more than ``megabytes``.
        ChildProcessError: if its process died.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_work, args=(sender, megabytes, function, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise TimeoutError
        kind, value = receiver.recv()
    except EOFError:
        raise ChildProcessError from None
    finally:
        receiver.close()
        child.kill()
        child.join()
        child.close()
    if kind is not None:
        raise kind(value)
    return value


def _work(sender: Connection, megabytes: float, function: Callable, arguments: tuple) -> None:
    _limit_memory(megabytes)
    try:
        answer = None, function(*arguments)
    except ValueError as error:
        answer = Refused, str(error)
    except (MemoryError, cv2.error) as error:
        answer = (MemoryError, "") if _out_of_memory(error) else (Refused, "it cannot be decoded")
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # as PyTorch says it
            raise
        answer = MemoryError, ""
    with contextlib.suppress(BrokenPipeError):
        sender.send(answer)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem


def _limit_memory(megabytes: float) -> None:
    statm = Path("/proc/self/statm")
    if resource and statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        limit = mapped + int(megabytes * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
