"""Chat templates in processes of their own, with limits that the system holds: the server's side of `template_worker`.

A process knows one template. It is kept warm between renderings, and is killed where it takes too long or too much;
the next rendering has a new one. It ends by itself when the server does, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Final

from ...artifacts.errors import EngineBusyError, RocmforgeError, printable
from .template_worker import BROKEN, CPU_SECONDS, DONE, FAILED, LENGTH_BYTES, READY

# A worker's own limits are of processor time; on a busy machine that takes longer.
ANSWER_SECONDS: Final = 2.0 * CPU_SECONDS
START_SECONDS: Final = 60.0  # to start Python and import Jinja: it is we who take that, not the template
MAX_PROCESSES: Final = 4  # of one template
PATIENCE_SECONDS: Final = 0.1  # a rendering takes less than 1 ms: who waits longer gets a further process
QUEUE_SECONDS: Final = 15.0
# Of an answer: what the sandbox allows and more. A larger one is none of our worker's.
MAX_ANSWER_BYTES: Final = 64 << 20
ANSWER_BYTES_PER_GIVEN: Final = 16
# Not what else is in the environment: keys, for example.
_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "TZ", "LANG", "LC_", "PYTHON", "VIRTUAL_ENV")  # what begins so
_COMMAND: Final = "from rocmforge.runtime.text.template_worker import main; main()"


class ChatTemplateError(RocmforgeError):
    """A chat template that does not parse, fails, misbehaves, or refuses the messages; one line."""

    def __init__(self, problem: str):
        super().__init__(f"chat template: {printable(problem, 400)}")


class _LostError(Exception):
    """A process that can be used no more, and why."""


class TemplateProcess:
    """A process that holds one template. Used by one thread at a time. `stop` it.

    Args:
        source: of the template.

    Raises:
        EngineBusyError: the system has no room for a process.
    """

    def __init__(self, source: str) -> None:
        import socket  # noqa: PLC0415 - with `subprocess` 3 ms, which a start without chats is spared
        import subprocess  # noqa: PLC0415

        self._source = source
        self._parsed = False
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _COMMAND],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    env={name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)},
                    process_group=0,  # Ctrl-C is not for it
                )
        except OSError as error:
            self._socket.close()
            raise EngineBusyError(f"cannot start a process for the chat template: {error.strerror}") from None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def parsed(self) -> bool:
        """Whether it has parsed the template."""
        return self._parsed

    def parse(self) -> None:
        """Have it parse the template, if it has not yet.

        Raises:
            ChatTemplateError: the template does not parse.
            _LostError: the process is lost.
        """
        if self._parsed:
            return
        kind, _ = self._read(START_SECONDS, 0)
        if kind != READY:
            raise _LostError("its process answers nonsense")
        self.ask(self._source.encode("utf-8", "surrogatepass"))
        self._parsed = True

    def ask(self, frame: bytes) -> str:
        """Answer a frame.

        Raises:
            ChatTemplateError: the template has failed; the process is as good as before.
            _LostError: the process is lost.
        """
        began = time.monotonic()
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            self._socket.sendall(len(frame).to_bytes(LENGTH_BYTES, "little") + frame)
        except OSError as error:
            raise self._lost(error) from None
        left = ANSWER_SECONDS - (time.monotonic() - began)
        kind, data = self._read(left, MAX_ANSWER_BYTES + ANSWER_BYTES_PER_GIVEN * len(frame))
        text = data.decode("utf-8", "surrogatepass")
        if kind == DONE:
            return text
        if kind == FAILED:
            raise ChatTemplateError(text)
        raise _LostError(text if kind == BROKEN else "its process answers nonsense")

    def stop(self) -> None:
        """End it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _read(self, seconds: float, most: int) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + seconds
        length = int.from_bytes(self._read_exactly(LENGTH_BYTES, deadline), "little")
        if not 1 <= length <= most + 1:
            raise _LostError("its process answers nonsense")
        data = self._read_exactly(length, deadline)
        return data[:1], data[1:]

    def _read_exactly(self, count: int, deadline: float) -> bytes:
        data = bytearray(count)
        view, filled = memoryview(data), 0
        while filled < count:
            try:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                got = self._socket.recv_into(view[filled:])
            except OSError as error:
                raise self._lost(error) from None
            if got == 0:
                raise self._lost(EOFError())
            filled += got
        return bytes(data)

    def _lost(self, error: Exception) -> _LostError:
        """Why it neither takes nor gives data any more."""
        if isinstance(error, TimeoutError):
            return _LostError(f"takes more than {ANSWER_SECONDS:g} s")
        import subprocess  # noqa: PLC0415 - see `__init__`

        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.returncode
        if status == -signal.SIGXCPU:
            return _LostError(f"takes more than {CPU_SECONDS} s")
        return _LostError("its process was killed" if status == -signal.SIGKILL else f"its process died ({status})")


class TemplateProcesses:
    """As many processes of one template as are needed, one of which is kept. Thread-safe. `close` it.

    Args:
        source: of the template.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._idle: list[TemplateProcess] = []
        self._busy = 0
        self._closed = False

    def start(self) -> None:
        """Have a process ready soon; does not wait for it.

        Raises:
            EngineBusyError: there is no room for one.
        """
        with self._changed:
            if not self._idle and not self._busy:
                self._idle.append(TemplateProcess(self._source))

    def ask(self, frame: bytes | None) -> str:
        """Render: variables in JSON to text; None: only have the template parsed.

        Raises:
            ChatTemplateError: the template does not parse, fails, or meets a limit.
            EngineBusyError: others keep all processes busy, or there is no room for one.
        """
        process, good = self._take(), False
        try:
            process.parse()
            text = "" if frame is None else process.ask(frame)
            good = True
        except ChatTemplateError:
            good = process.parsed
            raise
        except _LostError as error:
            raise ChatTemplateError(str(error)) from None
        finally:
            self._give_back(process, good)
        return text

    def close(self) -> None:
        """End them; those that render end with their renderings."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.stop()

    def _take(self) -> TemplateProcess:
        now = time.monotonic()
        further, latest = now + PATIENCE_SECONDS, now + QUEUE_SECONDS
        with self._changed:
            while True:
                while self._idle:
                    process = self._idle.pop()
                    if process.alive:
                        self._busy += 1
                        return process
                    process.stop()
                now = time.monotonic()
                if not self._busy or (now >= further and self._busy < MAX_PROCESSES):
                    process = TemplateProcess(self._source)
                    self._busy += 1
                    return process
                if now >= latest:
                    raise EngineBusyError("the chat template is busy with other requests")
                self._changed.wait((further if now < further else latest) - now)

    def _give_back(self, process: TemplateProcess, good: bool) -> None:
        """Keep it if there is no other; who waits is woken first, and finds it."""
        with self._changed:
            self._busy -= 1
            keep = good and not self._closed and not self._idle
            if keep:
                self._idle.append(process)
            self._changed.notify()
        if not keep:
            process.stop()
