"""The process of a worker: how it is started, what ends it, and how it ends with the server.

Imports nothing that takes time: a server starts its worker before it loads anything itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Final

from ....artifacts.errors import RocmforgeError, printable

log = logging.getLogger(__name__)

MODULE = "rocmforge.runtime.engine.worker.process"  # whose `serve` is the worker; tests put faulty ones in its place
KILL_SECONDS: Final = 1.0  # for a killed process to be gone; a driver may hold it for longer
MAX_LINE_BYTES: Final = 4096
STRETCH_SECONDS: Final = 1.0  # AMD's runtime names a fault, lists the memory around it, and fails an assertion
_PR_SET_PDEATHSIG: Final = 1  # Source: Linux, include/uapi/linux/prctl.h
_HIDDEN: Final = ("ROCMFORGE_API_KEY", "ROCMFORGE_API_KEYS")  # of the environment: no business of a worker's


class WorkerProcess:
    """A process that waits on `socket` to be told what to run. `end` it, then `wait_until_gone`.

    The system ends it with the thread that creates this, which must therefore live as long.

    Raises:
        RocmforgeError: the system has no room for a process, its descriptors or the thread that reads what it writes.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as made:
            try:
                self.socket, theirs = map(made.enter_context, socket.socketpair())
                self.bell = os.eventfd(0)
                made.callback(os.close, self.bell)
                self._process = self._spawn(theirs)
            except OSError as error:
                problem = printable(error.strerror)
                raise RocmforgeError(f"cannot start a process for the engine: {problem}") from None
            theirs.close()
            made.pop_all()
        self._last_words: list[str] = []  # the first and the last line of what it wrote at a stretch
        self._wrote_at = 0.0
        self._output = threading.Thread(target=self._log_output, name="output of a worker", daemon=True)
        try:
            self._output.start()
        except RuntimeError as error:
            with self._process:  # until it is gone, and no longer is what it wrote
                self.kill()
            self._close()
            raise RocmforgeError(f"cannot start a thread for the engine's process: {error}") from None

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        arguments = f"{theirs.fileno()}, {self.bell}, {os.getpid()}, {MODULE!r}"
        command = f"from rocmforge.runtime.engine.worker.spawn import begin; begin({arguments})"
        # Popen would open these by itself, and in Python 3.11.2 lose what it has where there is no room for the next.
        with open(os.devnull, "rb") as nothing, contextlib.ExitStack() as made:
            ours, its = os.pipe()
            output = made.enter_context(os.fdopen(ours, "rb"))
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", command],
                    stdin=nothing,
                    stdout=its,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno(), self.bell],
                    process_group=0,  # Ctrl-C is not for it
                    env={name: value for name, value in os.environ.items() if name not in _HIDDEN},
                )
            finally:
                os.close(its)
            made.pop_all()
        process.stdout = output
        return process

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def _log_output(self) -> None:
        """What drivers and libraries say there when they give up is the best that is known of a fault."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(MAX_LINE_BYTES):
                text = printable(line.decode("utf-8", "replace").rstrip(), MAX_LINE_BYTES)
                if text:
                    now = time.monotonic()
                    fresh = now - self._wrote_at > STRETCH_SECONDS
                    self._last_words, self._wrote_at = [text] if fresh else [self._last_words[0], text], now
                    log.warning("worker %d: %s", self.pid, text)

    def kill(self) -> None:
        """Have the system end it at once; harmless where it has ended."""
        self._process.kill()

    def end(self, seconds: float) -> str:
        """Wait for its end, for so many seconds, then kill it; says how it ended."""
        status = self._wait(seconds)
        if status is None:
            self.kill()
            status = self._wait(KILL_SECONDS)
        if status is None:
            log.error("worker %d: killed, and not gone: its driver holds it", self.pid)
            return "hangs, and cannot be killed"
        self._output.join(KILL_SECONDS)
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with exit code {status}"
        return f"{how}: {'; '.join(self._last_words)}" if self._last_words else how

    def wait_until_gone(self) -> None:
        """Return once the system has taken back all that it held; also what is here."""
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self.socket.close()
        os.close(self.bell)

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def give_way() -> None:
    """Have this thread, and those that it starts from now on, not interrupt the worker when they wake.

    Both share the processors, and what a thread of the worker has not computed all its others wait for: a token is
    better sent a moment later. Source: sched(7), SCHED_BATCH.
    """
    with contextlib.suppress(OSError):  # a system that forbids it serves a little slower
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def begin(descriptor: int, bell: int, parent: int, module: str) -> None:
    """The worker's first steps: it ends with the server, whatever ends that, and leaves signals to a group to it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    for one in (descriptor, bell):
        os.set_inheritable(one, False)  # what a driver starts would hold the line open when this process is gone
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # not as the server, see `give_way`
    if os.getppid() != parent:  # it has ended already, and nobody would tell
        os._exit(1)
    importlib.import_module(module).serve(socket.socket(fileno=descriptor), bell)
