"""Commands that kill themselves with SIGKILL at a chosen step, each in a fork of this process: what `rfc` imports is
there already, where a process of its own would take a second for it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from io import FileIO, TextIOWrapper
from pathlib import Path

from rocmforge.cli import main
from rocmforge.tests.support.process import PATIENCE_SECONDS, environment

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "shutil.rmtree", "ctypes.dlsym"}


def forked(
    folder: Path, *arguments: object, hook: Callable[[str, object], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `rfc` to its end in a fork, as `process.rfc` does in a process of its own.

    Args:
        folder: for what it says.
        hook: an audit hook of that process.
    """
    said = folder / "said.out", folder / "said.err"
    child = os.fork()
    if not child:
        try:
            _be_rfc(said, [str(argument) for argument in arguments], hook)
        finally:
            os._exit(70)
    impatience = threading.Timer(PATIENCE_SECONDS, os.kill, (child, signal.SIGTERM))
    impatience.start()
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        impatience.cancel()
    return subprocess.CompletedProcess([str(one) for one in arguments], status, *(path.read_text() for path in said))


def _be_rfc(said: tuple[Path, Path], arguments: list[str], hook: Callable[[str, object], None] | None) -> None:
    """In the child: never returns. What goes wrong with itself is on its standard error, and code 70."""
    gc.freeze()  # what is the parent's stays untouched, and is not closed here
    for number, path in zip((1, 2), said, strict=True):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    sys.stdout, sys.stderr = (TextIOWrapper(FileIO(number, "w", closefd=False)) for number in (1, 2))
    try:
        settings = environment()
        os.environ.clear()
        os.environ.update(settings)
        if hook is not None:
            sys.addaudithook(hook)
        main(arguments, prog_name="rfc")
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()


class Killed:
    """`rfc` with these arguments, whose steps are the calls that touch `touched`, and requests."""

    def __init__(self, folder: Path, touched: Path, *arguments: object) -> None:
        self._folder = folder / f"killed-{len(list(folder.glob('killed-*')))}"
        self._folder.mkdir()
        self._touched, self._arguments = str(touched), arguments

    def run(self, kill_at: int) -> int:
        """Run it, to the moment before that step; 0: to its end. Its exit code."""
        count, record = 0, os.open(self._folder / "count", os.O_RDWR | os.O_CREAT, 0o600)

        def hook(event: str, arguments: object) -> None:
            nonlocal count
            if event not in _EVENTS and event != "http.client.send":
                return
            given = arguments if isinstance(arguments, tuple) else ()
            if event == "http.client.send" or self._touched in str(given[:2]) or "renameat2" in given:
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                os.pwrite(record, f"{count:20}".encode(), 0)

        try:
            return forked(self._folder, *self._arguments, hook=hook).returncode
        finally:
            os.close(record)

    def dies(self, kill_at: int) -> bool:
        """Run it up to a step; whether it was killed there."""
        return self.run(kill_at) == -signal.SIGKILL

    @property
    def steps(self) -> int:
        """How many the last run had."""
        return int((self._folder / "count").read_text())
