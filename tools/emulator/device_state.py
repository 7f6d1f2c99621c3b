"""State that the parts of the emulated HIP API share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from . import hip_constants as hip
from .code_object import CodeObject
from .dispatch import Dispatcher, LoadedKernel
from .families import family, family_name
from .faults import TrappedFault
from .launch import Launcher
from .memory import Block, Memory


@dataclass
class Module:
    """A loaded code object and its image in device memory."""

    code: CodeObject
    image: Block
    functions: dict[str, int] = field(default_factory=dict)


@dataclass
class Stream:
    """A queue. Work is done when it is queued, or recorded while a capture runs.

    Attributes:
        capturing: what was recorded; None: no capture runs.
        spoilt: the capture met a call that it does not bear. It ends with the next one, not with its own end.
        thread: that began the capture.
    """

    capturing: list[Callable[[], int]] | None = None
    spoilt: bool = False
    thread: int | None = None


class DeviceState:
    """The device: memory, handles, and the fault that stopped it, if any.

    Attributes:
        fault: the last trapped fault; sticky, as a real device's is, until hipDeviceReset.
        events: when each was recorded; None: not yet.
        failures: function name to {call number from 1: error code}, injected for tests.
    """

    def __init__(self, arch: str, memory_bytes: int, threads: int, check: bool, count: bool, max_ops: int):
        self.arch = arch
        self.family = family(family_name(arch))
        self.memory = Memory(memory_bytes)
        self.dispatcher = Dispatcher(self.family, self.memory, threads or os.cpu_count() or 1, check, count, max_ops)
        self.launcher = Launcher(self.dispatcher, self.memory)
        self.modules: dict[int, Module] = {}
        self.functions: dict[int, LoadedKernel] = {}
        self.kernels: dict[str, list[LoadedKernel]] = {}
        self.streams: dict[int, Stream] = {0: Stream()}
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Callable[[], int]]] = {}
        self.executables: dict[int, list[Callable[[], int]]] = {}
        self.fault: TrappedFault | None = None
        self.sticky = hip.SUCCESS
        self.detail: dict[int, str] = {}
        self.last_error = hip.SUCCESS
        self.failures: dict[str, dict[int, int]] = {}
        self.calls: dict[str, int] = {}
        self._handles = itertools.count(0x1000)

    def handle(self) -> int:
        """A fresh handle."""
        return next(self._handles)

    def enter(self, name: str) -> int:
        """Count a call; the error that it must return at once, if one is injected or the device is lost."""
        self.calls[name] = self.calls.get(name, 0) + 1
        injected = self.failures.get(name, {})
        code = injected.get(self.calls[name], injected.get(0, 0)) or self.sticky
        return self.done(code)

    def done(self, code: int, detail: str = "") -> int:
        """Remember and return a result; the detail is shown by hipGetErrorString."""
        if code:
            self.last_error = code
        if detail:
            self.detail[code] = detail
        return code
