"""A temporary folder that goes away with all that runs in it, even where this process is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_GUARD = """
import os, shutil, signal, sys, time

folder = os.path.realpath(sys.argv[1])
sys.stdin.buffer.read()  # ends when whoever started this does, however that was


def inside(pid):
    try:
        where = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
    except OSError:  # gone, or somebody else's
        return False
    return where == folder or where.startswith(folder + "/")


for _ in range(40):  # a compiler may just be starting, or starting another
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and inside(name)]
    if not pids and not os.path.exists(folder):
        break
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    shutil.rmtree(folder, ignore_errors=True)
    time.sleep(0.05)
"""


@contextlib.contextmanager
def guarded_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder, which is removed in the end. Compilers are to run in it, as their working folder.

    A second process watches this one. Where it is killed, nothing in it can clean up: then the other ends every
    process that works in the folder, and removes it.

    Args:
        prefix: of its name.
    Raises:
        OSError: there is no room for it, or no process available.
    """
    command = (sys.executable, "-I", "-S", "-c", _GUARD)
    temporary = tempfile.TemporaryDirectory(prefix=prefix)
    guard = subprocess.Popen(
        (*command, temporary.name),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a signal to the terminal's processes is not for it
    )
    with guard, temporary as folder:  # the folder goes first: then the guard, its input closed, has nothing to do
        yield Path(folder)
