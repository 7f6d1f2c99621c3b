"""That there is a worker: it is started, heard, started again where it is lost, and ended where it hangs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ....artifacts.errors import DeviceError, EngineBusyError, RocmforgeError, printable
from ..engine import CANCEL_SECONDS
from ..failure import error_of
from .calls import Call, Calls
from .channel import Channel
from .spawn import WorkerProcess
from .wire import Answer, AskStats, Heartbeat, Lost, Ping, Ready, Start, Stop

log = logging.getLogger(__name__)

RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # between the end of a worker and the next; the last again and again
STEADY_SECONDS = 60.0  # a worker that has served for so long ended by a new fault, not by the last one again
SILENCE_SECONDS = 60.0  # without a word, or without taking one, after which a worker counts as hung
LOAD_SECONDS = 60.0  # that a worker in the place of another may take to serve, or so many times what the first took:
LOAD_TIMES: Final = 10
ASK_SECONDS = 1.0  # how often a worker is asked how it is
EXIT_SECONDS: Final = 2.0  # for a process to end by itself
STOP_SECONDS: Final = 2.0  # for all else that stopping takes
_STOPPING: Final = "the server is stopping"


class Keeper:
    """Keeps a worker that takes what is asked. Call `start` and `wait` to serve, `stop` to end.

    One thread starts workers and reads what they say, so it alone ends requests; another one sees that they live.
    """

    def __init__(self, start: Start, calls: Calls, first: WorkerProcess | None) -> None:
        """Args: what to run; what is asked of it; a process that was started early."""
        self._start = start
        self._calls = calls
        self._first = first
        self._changed = threading.Condition()  # and the lock of what follows
        self._process: WorkerProcess | None = None
        self._channel: Channel | None = None  # of a worker that serves
        self._ready: Ready | None = None  # as the last one said
        self._problem: str | None = "the worker has not started yet"
        self._failure: RocmforgeError | None = None  # why the last one did not start
        self._stopping = False
        self._cause: RocmforgeError | None = None  # why the worker is ended, where that is known
        self._restarts = 0
        self._started_at = self._serving_since = self._lost_at = self._heard_at = 0.0
        self._load_seconds = 0.0  # that the first worker took to serve
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="worker's watchdog", daemon=True)

    @property
    def ready(self) -> Ready:
        """What the last worker said when it began to serve."""
        if self._ready is None:
            raise RuntimeError("asked before `start`")
        return self._ready

    @property
    def problem(self) -> str | None:
        """Why there is none that serves; None: there is one."""
        return self._problem

    @property
    def restarts(self) -> int:
        """Workers that were started in the place of a lost one."""
        return self._restarts

    @property
    def pid(self) -> int | None:
        """Number of the worker's process, where there is one."""
        process = self._process
        return None if process is None else process.pid

    @property
    def serving(self) -> bool:
        """Whether there is a worker that takes requests."""
        return self._channel is not None

    def start(self) -> None:
        """Have the first worker begin to load; see `wait`."""
        self._thread.start()

    def wait(self) -> None:
        """Return once the first worker serves.

        Raises:
            RocmforgeError: it cannot load the bundle; it has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or self._failure is not None)
            if self._ready is not None:
                self._watchdog.start()
                return
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        assert self._failure is not None
        raise self._failure

    def ask(self, call: Call, message: Callable[[int], object]) -> None:
        """Send a message; it is answered, or failed with its worker.

        Raises:
            EngineBusyError: there is no worker, or it is to end.
        """
        with self._changed:
            channel = self._channel
            if self._stopping:
                raise EngineBusyError(_STOPPING)
            if channel is None:
                raise EngineBusyError(f"the model is not available: {self._problem}")
            number = self._calls.begin(call)
        try:
            channel.send(message(number))
        except BlockingIOError:
            self._kill(channel, f"the device's process has taken no message for {SILENCE_SECONDS:g} s")
        except OSError:
            pass  # it has ended: the thread that reads will see how, and answer
        except BaseException:
            self._calls.drop(number, call)
            raise

    def tell(self, message: object) -> None:
        """Send a message that nobody answers, if there is a worker to take it."""
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(OSError):  # its worker ends, and so does it
                channel.send(message)

    def stop(self, timeout: float) -> None:
        """Refuse new requests, let those in flight finish for `timeout` seconds, cancel the rest, end the worker."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            channel, process = self._channel, self._process
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.send(Stop(timeout))
            self._thread.join(timeout + CANCEL_SECONDS + STOP_SECONDS)
        if self._thread.is_alive() and process is not None:
            process.kill()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    # The thread that starts workers and reads what they say.

    def _run(self) -> None:
        lost = -1
        while True:
            served = self._serve_once()
            lost = 0 if served >= STEADY_SECONDS else lost + 1
            with self._changed:
                if self._ready is None:
                    return  # the first has not started: that is for `start` to tell
                pause = RESTART_SECONDS[min(lost, len(RESTART_SECONDS) - 1)]
                if self._changed.wait_for(lambda: self._stopping, pause):
                    return

    def _serve_once(self) -> float:
        """Start a worker and read what it says until it ends; returns for how many seconds it served."""
        try:
            process = self._first or WorkerProcess()
        except RocmforgeError as error:
            self._lose(error)
            return 0.0
        self._first = None
        channel = Channel(process.socket, SILENCE_SECONDS, listen=process.bell)
        with self._changed:
            self._process, self._cause, self._started_at = process, None, time.monotonic()
            if self._stopping:
                process.kill()
        with contextlib.suppress(OSError):
            channel.send(self._start)
        while self._read(channel):
            pass
        how = process.end(EXIT_SECONDS)
        with self._changed:
            since = self._serving_since if self._channel is channel else None
            cause = self._cause or DeviceError(f"the device's process {how}")
        self._lose(cause)
        served = 0.0 if since is None else time.monotonic() - since
        channel.close()
        process.wait_until_gone()  # and with it what it held of the device's memory
        return served

    def _read(self, channel: Channel) -> bool:
        """Take the next frame; returns whether there was one."""
        try:
            frame = channel.receive()
            if frame is None:
                return False
            self._heard_at = time.monotonic()  # first, for the watchdog looks as soon as `_take` says that it serves
            self._take(frame, channel)
        except Exception as error:  # a worker out of its mind
            log.exception("the device's process says what cannot be understood")
            self._kill(channel, f"the device's process says what cannot be understood: {printable(repr(error))}")
        return True

    def _take(self, frame: tuple[object, ...], channel: Channel) -> None:
        for message in self._calls.take(frame):
            if isinstance(message, Ready):
                self._begin(message, channel)
            elif isinstance(message, Lost):
                self._kill(channel, message.problem)
            elif isinstance(message, Answer) and message.fault is not None:
                with self._changed:
                    self._cause = error_of(message.fault)
            elif not isinstance(message, Heartbeat):
                raise TypeError(f"no message of a worker: {message!r}")

    def _begin(self, ready: Ready, channel: Channel) -> None:
        now = time.monotonic()
        with self._changed:
            if self._ready is None:
                self._load_seconds = now - self._started_at
            else:
                self._restarts += 1
                log.info("the device is available again, after %.1f s", now - self._lost_at)
            self._start = replace(self._start, device=ready.device, stamps=ready.stamps)
            self._ready, self._channel, self._problem, self._serving_since = ready, channel, None, now
            self._changed.notify_all()

    def _lose(self, cause: RocmforgeError) -> None:
        """There is no worker any more: what it had not ended has failed, each request once."""
        problem = str(cause)
        with self._changed:
            if self._stopping:
                problem = _STOPPING
            elif self._channel is not None:
                log.error("the device is lost, and %d requests with it: %s", self._calls.ledger.load, problem)
                self._lost_at = time.monotonic()
            elif self._ready is not None:
                log.error("not available: %s", problem)
            self._process = self._channel = None
            self._problem, self._failure = problem, cause
            self._changed.notify_all()
        self._calls.fail(problem)

    # What ends a worker.

    def _kill(self, channel: Channel, problem: str) -> None:
        """End the worker of a channel, if it is still the one; the thread that reads sees its end."""
        with self._changed:
            process = self._process if self._channel in (None, channel) else None
            if process is not None:
                self._cause = self._cause or DeviceError(problem)
                process.kill()

    def _end_what_does_not_load(self) -> None:
        limit = max(LOAD_SECONDS, LOAD_TIMES * self._load_seconds)
        with self._changed:
            process = self._process if self._channel is None else None
            if process is not None and time.monotonic() - self._started_at > limit:
                self._cause = self._cause or DeviceError(f"the device's process does not serve after {limit:.0f} s")
                process.kill()

    def _watch(self) -> None:
        """See that the worker comes to serve, that it lives, and that its engine has not lost its device without being
        able to say so. Silence counts when it is seen twice, with a question between: where this process was stopped
        for long, the worker had nothing to answer."""
        asked: Call | None = None
        was_silent = False
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, ASK_SECONDS):
                    return
                channel = self._channel
            if channel is None:
                asked, was_silent = None, False
                self._end_what_does_not_load()
                continue
            problem = asked.stats.problem if asked is not None and asked.stats is not None else None
            silent = time.monotonic() - self._heard_at > SILENCE_SECONDS
            if silent and was_silent:
                problem = f"the device's process has not answered for {SILENCE_SECONDS:g} s"
            if problem is not None:
                self._kill(channel, problem)
                continue
            was_silent = silent
            with contextlib.suppress(OSError, EngineBusyError):
                channel.send(Ping())
                if asked is None or asked.answered.is_set():
                    asked = Call()
                    self.ask(asked, AskStats)
