"""Running a kernel: what the packet processor and the hardware set up of a packet, then the native code."""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .code_object import CodeObject, Kernel
from .counters import KernelCounters, TrafficCount
from .errors import BadCodeObject
from .families import Family
from .faults import TrappedFault, describe
from .library import Library
from .memory import Allocations, Block
from .structures import Launch, Traffic, Worker
from .translate import CLASSES, Program, translate

# An AQL packet: header, setup, workgroup x y z, a gap, items x y z, scratch of an item, LDS of a workgroup, kernel,
# arguments, a gap, completion signal.
PACKET = struct.Struct("<6H5I4Q")
ROUND_AND_DENORM_DEFAULT = 0xF0
Size = tuple[int, int, int]


@dataclass
class LoadedKernel:
    """A kernel ready to run: its program, and its counts for each thread.

    Attributes:
        unaligned: it may access global memory at any address, as a GPU under Linux allows.
    """

    kernel: Kernel
    image: Block
    program: Program
    library: Library
    counters: KernelCounters = field(default_factory=KernelCounters)
    hits: list[ctypes.Array[ctypes.c_uint64]] = field(default_factory=list)
    unaligned: bool = False


class Dispatcher:
    """Runs kernels on the threads of this machine.

    Args:
        check: trap races and reads of uninitialised LDS (bounds and alignment are always checked).
        count: count traffic and bank conflicts (instructions are always counted).
        max_ops: operations of one wave before it is called endless.
    """

    def __init__(self, family: Family, memory: Allocations, threads: int, check: bool, count: bool, max_ops: int):
        self.family, self.memory = family, memory
        self.threads, self.check, self.count, self.max_ops = threads, check, count, max_ops
        self._pool = ThreadPoolExecutor(max_workers=threads) if threads > 1 else None
        self._lock = threading.Lock()

    def load(self, code: CodeObject, image: Block, kernel: Kernel, library: Library) -> LoadedKernel:
        """Translate a kernel.

        Raises:
            UnknownInstruction: names it.
            BadCodeObject: the kernel asks for a mode that is not emulated.
        """
        if kernel.rsrc1 >> 12 & 0xFF != ROUND_AND_DENORM_DEFAULT:
            raise BadCodeObject(f"kernel {kernel.name}: only nearest-even rounding with denormals is emulated")
        content = ctypes.string_at(image.address, image.size)
        program = translate(self.family, library, content, ((kernel.begin, kernel.end), *code.functions))
        hits = [(ctypes.c_uint64 * len(program.ops))() for _ in range(self.threads)]
        return LoadedKernel(kernel, image, program, library, hits=hits)

    def dispatch(self, loaded: LoadedKernel, packet: int) -> TrappedFault | None:
        """Run the kernel of an AQL packet, which lies at an address with its arguments written, to its end.

        Returns:
            The fault that stopped it, if one did.
        """
        with self._lock:
            return self._run(loaded, packet)

    def _run(self, loaded: LoadedKernel, packet: int) -> TrappedFault | None:
        started = time.perf_counter()
        launch = self._prepare(loaded, packet)
        table, blocks = self.memory.table()
        launch.allocations, launch.num_allocations = ctypes.addressof(table), len(blocks)
        next_group, stop = ctypes.c_uint32(0), ctypes.c_uint32(0)
        launch.next_group, launch.stop = ctypes.addressof(next_group), ctypes.addressof(stop)
        if self.count:
            for item in blocks:
                ctypes.memset(item.lines, 0, ctypes.sizeof(item.lines))
        num_threads = min(self.threads, launch.grid[0] * launch.grid[1] * launch.grid[2])
        traffic = [(Traffic * (2 * len(blocks)))() for _ in range(num_threads)]
        workers = [Worker() for _ in range(num_threads)]
        for i, worker in enumerate(workers):
            worker.traffic, worker.hits = ctypes.addressof(traffic[i]), ctypes.addressof(loaded.hits[i])
        results = self._run_workers(loaded.library, launch, workers)
        self._collect(loaded.counters, workers, traffic, blocks)
        loaded.counters.seconds += time.perf_counter() - started
        return self._fault(loaded, launch, workers, results)

    def _run_workers(self, library: Library, launch: Launch, workers: list[Worker]) -> list[int]:
        if self._pool is None or len(workers) == 1:
            return [library.run(launch, worker) for worker in workers]
        try:
            jobs = [self._pool.submit(library.run, launch, worker) for worker in workers]
        except RuntimeError:  # the interpreter is ending: pools take nothing more, but threads of the program go on
            return [library.run(launch, worker) for worker in workers]
        return [job.result() for job in jobs]

    def _fault(
        self, loaded: LoadedKernel, launch: Launch, workers: list[Worker], results: list[int]
    ) -> TrappedFault | None:
        if -1 in results:
            raise MemoryError("the emulator is out of host memory")
        for worker, result in zip(workers, results, strict=True):
            if result:
                fault, program = worker.fault, loaded.program
                offset = program.ops[fault.op].address - loaded.kernel.begin
                name = program.names[fault.op]
                return describe(fault, loaded.kernel.name, name, offset, launch.lds_bytes, self.memory)
        return None

    def _prepare(self, loaded: LoadedKernel, packet: int) -> Launch:
        """What the packet processor and the hardware make of a packet."""
        kernel, program, family = loaded.kernel, loaded.program, self.family
        fields = PACKET.unpack(ctypes.string_at(packet, PACKET.size))
        block, items, private, group, kernarg = fields[2:5], fields[6:9], fields[9], fields[10], fields[12]
        launch = Launch()
        launch.ops, launch.num_ops = ctypes.addressof(program.ops), len(program.ops)
        launch.op_of_word = ctypes.addressof(program.op_of_word)
        launch.entry = program.op_of_word[kernel.begin // 4]
        launch.image, launch.image_words = loaded.image.address, loaded.image.size // 4
        for axis in range(3):
            launch.grid[axis], launch.block[axis] = -(-items[axis] // block[axis]), block[axis]
            launch.items[axis] = items[axis]
            launch.enable_group_id[axis] = kernel.rsrc2 >> (7 + axis) & 1
        launch.enable_group_info = kernel.rsrc2 >> 10 & 1
        launch.num_id_dims = kernel.rsrc2 >> 11 & 3
        launch.architected_ids = int(family.architected_ids)
        launch.has_acc = int(family.has_acc)
        granule = family.vgpr_granule[kernel.wave_size]
        launch.num_vgprs = min(512 if family.has_acc else 256, granule * ((kernel.rsrc1 & 63) + 1))
        launch.lds_bytes, launch.scratch_bytes = group, private
        launch.max_ops, launch.check, launch.count = self.max_ops, int(self.check), int(self.count)
        launch.unaligned = int(loaded.unaligned)
        registers = user_registers(kernel, packet, kernarg, private)
        for i, value in enumerate(registers):
            launch.user_sgprs[i] = value
        launch.num_user_sgprs = len(registers)
        return launch

    def _collect(
        self,
        counters: KernelCounters,
        workers: list[Worker],
        traffic: list[ctypes.Array[Traffic]],
        blocks: list[Block],
    ) -> None:
        counters.launches += 1
        for worker in workers:
            totals = worker.totals
            counters.waves += totals.waves
            counters.barriers += totals.barriers
            counters.lds_instructions += totals.lds_instructions
            counters.lds_bytes += totals.lds_bytes
            counters.lds_conflict_cycles += totals.lds_conflict_cycles
        for rows in traffic if self.count else ():
            for slot, block in enumerate(blocks):
                pair = [rows[2 * slot], rows[2 * slot + 1]]
                if not pair[0].instructions and not pair[1].instructions:
                    continue
                kept = counters.by_allocation.setdefault(block.label, (TrafficCount(), TrafficCount()))
                for row, mine, total in zip(pair, kept, (counters.loads, counters.stores), strict=True):
                    found = TrafficCount(
                        row.instructions, row.bytes, row.transactions, row.full_transactions, row.distinct_lines
                    )
                    mine.add(found)
                    total.add(found)


def instruction_counts(loaded: LoadedKernel) -> dict[str, int]:
    """Wave instructions by class, of all launches so far."""
    counts = dict.fromkeys(CLASSES, 0)
    for index, op in enumerate(loaded.program.ops):
        if op.first:
            counts[CLASSES[loaded.program.classes[index]]] += sum(hits[index] for hits in loaded.hits)
    return counts


def profile(loaded: LoadedKernel) -> list[tuple[int, str, int]]:
    """(offset in the kernel, instruction, times executed by a wave) for each instruction."""
    return [
        (op.address - loaded.kernel.begin, loaded.program.names[i], sum(hits[i] for hits in loaded.hits))
        for i, op in enumerate(loaded.program.ops)
        if op.first
    ]


def user_registers(kernel: Kernel, packet: int, kernarg: int, scratch_bytes: int) -> list[int]:
    """User SGPRs in the order that the descriptor's properties give them, with zeros behind what is known."""
    pointers = [(0, [0, 0, 0, 0]), (1, _words(packet)), (2, [0, 0]), (3, _words(kernarg)), (4, [0, 0]), (5, [0, 0])]
    result: list[int] = []
    for bit, words in pointers:
        if kernel.properties >> bit & 1:
            result += words
    if kernel.properties >> 6 & 1:
        result.append(scratch_bytes)
    count = kernel.rsrc2 >> 1 & 31
    return (result + [0] * count)[:count]


def _words(address: int) -> list[int]:
    return [address & 0xFFFFFFFF, address >> 32]
