"""A worker that does once what the file named by $ROCMFORGE_TEST_FAULT says: FAULT[:STEP]. For `spawn.MODULE`."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocmforge.runtime.device.batch import Batch, Int32
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.host import HostProgram
from rocmforge.runtime.engine.worker import process, wire
from rocmforge.runtime.engine.worker.channel import Channel

VARIABLE = "ROCMFORGE_TEST_FAULT"


def serve(ours: socket.socket, bell: int) -> None:
    """Be a worker, and do it."""
    file = Path(os.environ[VARIABLE])
    if file.exists():
        fault, _, step = file.read_text().partition(":")
        if fault != "cannot load":
            file.unlink()
        if fault == "deaf":
            time.sleep(3600)
        inject(fault, int(step or 0), ours)
    process.serve(ours, bell)


def inject(fault: str, step: int, ours: socket.socket) -> None:
    """Have the fault come with a step, of those after loading; `cannot load` comes at once."""
    if fault == "cannot load":
        print("no such card", flush=True)
        os._exit(3)
    load, done = process.Worker.load, 0

    def faulty(real: Callable[[Any, Batch], Int32]) -> Callable[[Any, Batch], Int32]:
        def take_step(program: Any, batch: Batch) -> Int32:
            nonlocal done
            done += 1
            if done > step:
                commit(fault, ours, batch)
            return real(program, batch)

        return take_step

    def load_and_arm(worker: process.Worker, start: wire.Start) -> None:
        load(worker, start)
        for program in (HostProgram, HipProgram):
            program.step = faulty(program.step)  # type: ignore[method-assign, assignment]

    process.Worker.load = load_and_arm  # type: ignore[method-assign, assignment]


def commit(fault: str, ours: socket.socket, batch: Batch) -> None:
    """Do what a broken device's driver does to the process."""
    if fault == "abort":
        print("Memory access fault by GPU node-1", flush=True)
        os.abort()
    elif fault == "page fault":  # on a GPU: a page of the KV cache far from all that there is
        batch.block_table[:] = 1 << 24
    elif fault == "segv":
        ctypes.string_at(0)
    elif fault == "exit":
        os._exit(9)
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "hang with the lock":  # of the interpreter: a library that does not let go of it
        ctypes.PyDLL(None).sleep(3600)
    elif fault == "stop":
        time.sleep(0.5)  # what the other threads have to say, that a request was taken, is said
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "nonsense":
        Channel(ours).send(("who", "am", "i"))
    elif fault == "half a frame":
        ours.sendall(wire.encode("x" * 1000)[:100])
        os._exit(0)
    else:
        raise ValueError(fault)
