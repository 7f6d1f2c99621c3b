"""Faults in words: what happened, in which kernel, at which instruction, in which lane."""

from __future__ import annotations

from dataclasses import dataclass

from .memory import Allocations
from .structures import Fault

(
    _NONE,
    BOUNDS,
    ALIGNMENT,
    UNINITIALISED,
    RACE,
    READ_ONLY,
    LDS_BOUNDS,
    SCRATCH_BOUNDS,
    HANG,
    DEADLOCK,
    TARGET,
    TRAP,
    WMMA,
    FRESH,
) = range(14)
_SEVERAL = 0xFF


@dataclass(frozen=True)
class TrappedFault:
    """A fault that stopped a kernel.

    Attributes:
        kind: "bounds", "alignment", "uninitialised", "race", ...
        message: one line with everything.
    """

    kind: str
    kernel: str
    instruction: str
    offset: int
    lane: int
    wave: int
    group: tuple[int, int, int]
    address: int
    message: str


KINDS = {
    BOUNDS: "bounds",
    ALIGNMENT: "alignment",
    UNINITIALISED: "uninitialised",
    RACE: "race",
    READ_ONLY: "read-only",
    LDS_BOUNDS: "lds-bounds",
    SCRATCH_BOUNDS: "scratch-bounds",
    HANG: "hang",
    DEADLOCK: "deadlock",
    TARGET: "jump",
    TRAP: "trap",
    WMMA: "wmma-layout",
    FRESH: "fresh",
}


def describe(
    fault: Fault, kernel: str, instruction: str, offset: int, lds_bytes: int, memory: Allocations
) -> TrappedFault:
    """Words for a fault.

    Args:
        offset: of the instruction in the kernel, bytes.
        lds_bytes: of a workgroup.
    """
    group = (fault.group[0], fault.group[1], fault.group[2])
    access = f"{'write' if fault.is_write else 'read'} of {fault.size} bytes"
    other = "several waves" if fault.other_wave == _SEVERAL else f"wave {fault.other_wave}"
    what = {
        BOUNDS: f"out-of-bounds {access} at {fault.address:#x} ({_near(fault.address, memory)})",
        ALIGNMENT: f"misaligned {access} at {fault.address:#x}",
        UNINITIALISED: f"{access} of uninitialised LDS at {fault.address:#x}",
        RACE: f"LDS race: {access} at {fault.address:#x} against {other}",
        READ_ONLY: f"{access} at {fault.address:#x}: read-only",
        LDS_BOUNDS: f"out-of-bounds LDS {access} at {fault.address:#x} of {lds_bytes:#x}",
        SCRATCH_BOUNDS: f"out-of-bounds scratch {access} at {fault.address:#x}",
        HANG: f"no end after {fault.address} operations",
        DEADLOCK: "barrier that not all waves reach",
        TARGET: f"jump to {fault.address:#x}, which is no known code",
        TRAP: f"trap {fault.address}",
        WMMA: "A or B is not repeated in the upper lanes",
        FRESH: f"scalar {access} at {fault.address:#x}, which the host has just written",
    }[fault.code]
    where = f"workgroup {group}, wave {fault.wave}, lane {fault.lane}"
    message = f"kernel {kernel}+{offset:#x}: {instruction}: {what}; {where}"
    kind = KINDS[fault.code]
    return TrappedFault(kind, kernel, instruction, offset, fault.lane, fault.wave, group, fault.address, message)


def _near(address: int, memory: Allocations) -> str:
    block = memory.nearest(address)
    if block is None:
        return "nothing is allocated"
    if address >= block.address:
        return f"{address - block.end:+d} bytes from the end of {block.label}, {block.size} bytes"
    return f"{block.address - address} bytes before {block.label}, {block.size} bytes"
