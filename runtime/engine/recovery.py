"""What an engine does where its device fails or hangs: it fails the step, and goes on with another program."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ...artifacts.errors import BundleError, DeviceError, RocmforgeError
from ..device.batch import DeviceFacts, Program, changed_files, close_program, device_facts
from ..device.patience import Patience
from .checks import too_long
from .failure import Failure, failure_of
from .generation import FINISH_FAILED
from .kv_cache import BlockPool
from .request_table import RequestTable
from .scheduler import Chunk
from .state_slots import slots_for

log = logging.getLogger(__name__)

REBUILD_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)  # between attempts at a new program; the last again and again
LOOK_SECONDS: Final = 0.25  # how often the watchdog looks, at least


class Recovery:
    """The program that an engine's steps run on, the thread that runs them, and a watchdog over both.

    Without `make_program` a failed program is tried again with the next step.

    Attributes:
        wake: the engine's lock, and what its thread waits on; notes of a step are made under it.
        program: the one in use; None: another is being made.
        problem: why there is no device.
        stopping: no further attempts, no other thread.
        thread: that runs the steps; after a hang another.
    """

    def __init__(
        self,
        program: Program,
        make_program: Callable[[], Program] | None,
        table: RequestTable,
        step_seconds: float,
        queue_seconds: float,
        run: Callable[[Program | None], None],
    ) -> None:
        """Args: the program; what makes another; requests; when a step counts as hung; longest wait; the loop."""
        self.wake = threading.Condition()
        self.program: Program | None = program
        self.problem: str | None = None
        self.stopping = False
        self.thread = threading.Thread(target=run, args=(program,), name="engine", daemon=True)
        self._layout = program.layout
        self._make_program = make_program
        self._table = table
        self._step_seconds = step_seconds
        self._queue_seconds = queue_seconds
        self._run = run
        self._in_step: list[Chunk] = []
        self._step_began = 0.0
        self._patience = Patience(step_seconds)
        self._ended = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to run steps and to watch them."""
        self.thread.start()
        self._watchdog.start()

    def close(self) -> None:
        """Free the program, and watch no more: the thread has ended."""
        self._ended.set()
        close_program(self.program)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device's memory; 0 where there is no device."""
        program = self.program
        if program is None or self.problem is not None:
            return 0, 0
        try:
            return program.memory()
        except DeviceError:  # lost just now, or long ago and not yet noticed
            return 0, 0

    def facts(self) -> DeviceFacts:
        """Of the device, if there is one."""
        return device_facts(self.program)

    # The loop's notes, under the lock.

    def begin_step(self, chunks: list[Chunk]) -> None:
        """From now on a step of these chunks runs; no chunks: none does."""
        self._in_step, self._step_began = chunks, time.monotonic()
        self._patience.begin()

    def end_step(self) -> None:
        """What the step came to is taken."""
        self._in_step = []

    def step_seconds(self) -> float:
        """Since the step began."""
        return time.monotonic() - self._step_began

    def given_up(self, chunks: list[Chunk]) -> bool:
        """Whether the watchdog has failed this step already. Where the device came back after all, it is used again."""
        if self._in_step is chunks:
            return False
        if not self.replaced():
            self.problem = None
        return True

    def replaced(self) -> bool:
        """Whether the calling thread is no longer the one that runs the steps."""
        return self.thread is not threading.current_thread()

    # What goes wrong.

    def step_failed(self, chunks: list[Chunk], error: Exception, program: Program) -> Program | None:
        """A step raised; returns the program to go on with, None: another is needed. Takes the lock."""
        lost = isinstance(error, (DeviceError, BundleError)) and self._make_program is not None
        with self.wake:
            if self.given_up(chunks):
                return program
            self._fail_step(error)
            if lost:
                self.problem, self.program = str(error), None
        if not lost:
            return program
        close_program(program)
        return None

    def choice_failed(self, error: Exception) -> None:
        """No step could be chosen: end all requests, for what the scheduler has of them is in doubt. Under the lock."""
        log.error("the next step could not be chosen", exc_info=error)
        for sequence in self._table.live():
            self._table.finish(sequence, FINISH_FAILED, failure_of(error))
        self._start_anew()

    def _fail_step(self, error: Exception) -> None:
        """End the requests of a step that failed, and start the others over: what it left in the cache is not known.
        Where the bundle is torn, end the others too: it may stay so."""
        if isinstance(error, RocmforgeError):
            log.error("step failed: %s", error)
        else:
            log.error("step failed", exc_info=error)
        failure = failure_of(error)
        chunks, self._in_step = self._in_step, []
        others = self._table.live() if isinstance(error, BundleError) else []
        for sequence in [*(chunk.sequence for chunk in chunks), *others]:
            if not sequence.finished:
                self._table.finish(sequence, FINISH_FAILED, failure)
        self._start_anew()

    def _start_anew(self) -> None:
        scheduler = self._table.scheduler
        self._start_over(scheduler.pool.num_blocks, 0 if scheduler.states is None else scheduler.states.pool.size)

    def _start_over(self, num_blocks: int, num_state_slots: int) -> None:
        pool = BlockPool(num_blocks, self._layout.kv.block_size)
        self._table.scheduler.start_over(pool, slots_for(self._layout, num_state_slots))

    def _watch(self) -> None:
        """The watchdog: fails a step that hangs, and sees changed files while there is no step that would. With
        `make_program`, another thread goes on with another program."""
        limit = self._step_seconds
        while not self._ended.wait(min(LOOK_SECONDS, limit / 4)):
            program = self.program
            changed = changed_files(program)  # without the lock: the file system may hang
            with self.wake:
                if self.problem is not None:
                    self._table.drop_ended(self._queue_seconds)  # the thread hangs, or is busy with a new program
                if self._in_step and self._patience.look():
                    error: RocmforgeError = DeviceError(f"the device did not finish its step within {limit:g} s")
                elif changed is not None and not self._in_step and self.program is program and self.problem is None:
                    error = changed
                else:
                    continue
                self._fail_step(error)
                self.problem = str(error)
                if self._make_program is not None and not self.stopping:
                    self.program = None
                    self.thread = threading.Thread(target=self._run, args=(None,), name="engine", daemon=True)
                    self.thread.start()
                    self.wake.notify_all()  # the thread before it, if it waits for work

    def rebuild(self) -> Program | None:
        """A new program, however many attempts it takes; None where the engine stops before. Takes the lock."""
        make = self._make_program
        delays = itertools.chain(REBUILD_SECONDS, itertools.repeat(REBUILD_SECONDS[-1]))
        while make is not None:
            try:
                program = make()
            except Exception as error:
                log.error("not available: %s", error, exc_info=None if isinstance(error, RocmforgeError) else error)
                if not self._wait_without_device(time.monotonic() + next(delays)):
                    break
            else:
                self._adopt(program)
                return program
        return None

    def _wait_without_device(self, until: float) -> bool:
        """Whether there is to be another attempt, at `until`; the watchdog drops what is cancelled meanwhile."""
        with self.wake:
            while (left := until - time.monotonic()) > 0:
                if self.stopping:
                    for sequence in self._table.live():
                        failure = Failure(self.problem or "the engine is stopping")
                        self._table.finish(sequence, FINISH_FAILED, failure)
                    return False
                self.wake.wait(left)
        return True

    def _adopt(self, program: Program) -> None:
        with self.wake:
            self._start_over(program.num_blocks, program.num_state_slots)
            for sequence in self._table.live():
                problem = too_long(sequence.max_length, self._table.scheduler.pool)
                if problem is not None:
                    self._table.finish(sequence, FINISH_FAILED, Failure(problem))
            self.program, self.problem = program, None
        log.info("the device is available again")
