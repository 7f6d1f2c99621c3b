"""What kernels cost: instructions by class, global memory traffic, LDS use."""

from __future__ import annotations

from dataclasses import dataclass, field

from .translate import CLASSES


@dataclass
class TrafficCount:
    """Global memory traffic in one direction; a transaction is one 128-byte line in one wave instruction.

    Attributes:
        instructions: wave instructions.
        bytes: distinct bytes that each instruction touched, summed.
        transactions: 128-byte lines that each instruction touched, summed.
        full_transactions: those of which every byte was touched.
        distinct_lines: lines counted once a launch: what a perfect cache would fetch.
    """

    instructions: int = 0
    bytes: int = 0
    transactions: int = 0
    full_transactions: int = 0
    distinct_lines: int = 0

    def add(self, other: TrafficCount) -> None:
        """Sum in place."""
        self.instructions += other.instructions
        self.bytes += other.bytes
        self.transactions += other.transactions
        self.full_transactions += other.full_transactions
        self.distinct_lines += other.distinct_lines


@dataclass
class KernelCounters:
    """Counts of one kernel over its launches.

    Attributes:
        instructions: wave instructions by class: salu, branch, smem, valu, dot, matrix, vmem, lds, scratch. Waits and
            hints are not counted; a dual-issue pair counts once.
        loads, stores: global memory traffic (scalar loads included); atomics count as stores.
        by_allocation: allocation's label to (loads, stores).
        lds_conflict_cycles: cycles beyond the first that bank conflicts cost (32 banks of 4 bytes).
        barriers: wave barriers passed.
    """

    launches: int = 0
    waves: int = 0
    instructions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    loads: TrafficCount = field(default_factory=TrafficCount)
    stores: TrafficCount = field(default_factory=TrafficCount)
    by_allocation: dict[str, tuple[TrafficCount, TrafficCount]] = field(default_factory=dict)
    lds_instructions: int = 0
    lds_bytes: int = 0
    lds_conflict_cycles: int = 0
    barriers: int = 0
    seconds: float = 0.0

    @property
    def total_instructions(self) -> int:
        """Wave instructions of all classes."""
        return sum(self.instructions.values())
