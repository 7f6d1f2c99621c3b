"""Launching a kernel: what the packet processor and the hardware set up, then the native code."""

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
from .lower import APERTURES
from .memory import Block, Memory
from .structures import Launch, Traffic, Worker
from .translate import CLASSES, Program, translate

_KERNARG_BYTES, _PACKET_BYTES = 64 << 10, 64
_DYNAMIC_STACK_BYTES = 16 << 10
_ROUND_AND_DENORM_DEFAULT = 0xF0
Size = tuple[int, int, int]


@dataclass
class LoadedKernel:
    """A kernel ready to run: its program, and its counts for each thread."""

    kernel: Kernel
    image: Block
    program: Program
    library: Library
    counters: KernelCounters = field(default_factory=KernelCounters)
    hits: list[ctypes.Array[ctypes.c_uint64]] = field(default_factory=list)


class Dispatcher:
    """Runs kernels on the threads of this machine.

    Args:
        check: trap races and reads of uninitialised LDS (bounds and alignment are always checked).
        count: count traffic and bank conflicts (instructions are always counted).
        max_ops: operations of one wave before it is called endless.
    """

    def __init__(self, family: Family, memory: Memory, threads: int, check: bool, count: bool, max_ops: int):
        self.family, self.memory = family, memory
        self.threads, self.check, self.count, self.max_ops = threads, check, count, max_ops
        self._kernarg = memory.allocate(_KERNARG_BYTES + _PACKET_BYTES, kind="code", read_only=True, label="kernarg")
        self._pool = ThreadPoolExecutor(max_workers=threads) if threads > 1 else None
        self._lock = threading.Lock()

    def load(self, code: CodeObject, image: Block, kernel: Kernel, library: Library) -> LoadedKernel:
        """Translate a kernel.

        Raises:
            UnknownInstruction: names it.
            BadCodeObject: the kernel asks for a mode that is not emulated.
        """
        if kernel.rsrc1 >> 12 & 0xFF != _ROUND_AND_DENORM_DEFAULT:
            raise BadCodeObject(f"kernel {kernel.name}: only nearest-even rounding with denormals is emulated")
        content = ctypes.string_at(image.address, image.size)
        program = translate(self.family, library, content, [(kernel.begin, kernel.end), *code.functions])
        hits = [(ctypes.c_uint64 * len(program.ops))() for _ in range(self.threads)]
        return LoadedKernel(kernel, image, program, library, hits=hits)

    def launch(
        self, loaded: LoadedKernel, grid: Size, block: Size, dynamic_lds: int, arguments: bytes
    ) -> TrappedFault | None:
        """Run a kernel to its end; the fault that stopped it, if one did.

        Args:
            grid, block: workgroups, and work-items of each, in x, y, z.
            arguments: the kernarg segment's explicit part.
        """
        with self._lock:
            started = time.perf_counter()
            launch = self._prepare(loaded, grid, block, dynamic_lds, arguments)
            table, blocks = self.memory.table()
            launch.allocations, launch.num_allocations = ctypes.addressof(table), len(blocks)
            next_group, stop = ctypes.c_uint32(0), ctypes.c_uint32(0)
            launch.next_group, launch.stop = ctypes.addressof(next_group), ctypes.addressof(stop)
            if self.count:
                for item in blocks:
                    ctypes.memset(item.lines, 0, ctypes.sizeof(item.lines))
            num_threads = min(self.threads, grid[0] * grid[1] * grid[2])
            traffic = [(Traffic * (2 * len(blocks)))() for _ in range(num_threads)]
            workers = [Worker() for _ in range(num_threads)]
            for i, worker in enumerate(workers):
                worker.traffic, worker.hits = ctypes.addressof(traffic[i]), ctypes.addressof(loaded.hits[i])
            if self._pool is None or num_threads == 1:
                results = [loaded.library.run(launch, workers[0])]
            else:
                jobs = [self._pool.submit(loaded.library.run, launch, worker) for worker in workers]
                results = [job.result() for job in jobs]
            self._collect(loaded.counters, workers, traffic, blocks)
            loaded.counters.seconds += time.perf_counter() - started
        return self._fault(loaded, launch, workers, results)

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

    def _prepare(self, loaded: LoadedKernel, grid: Size, block: Size, dynamic_lds: int, arguments: bytes) -> Launch:
        kernel, program, family = loaded.kernel, loaded.program, self.family
        launch = Launch()
        launch.ops, launch.num_ops = ctypes.addressof(program.ops), len(program.ops)
        launch.op_of_word = ctypes.addressof(program.op_of_word)
        launch.entry = program.op_of_word[kernel.begin // 4]
        launch.image, launch.image_words = loaded.image.address, loaded.image.size // 4
        for axis in range(3):
            launch.grid[axis], launch.block[axis] = grid[axis], block[axis]
            launch.enable_group_id[axis] = kernel.rsrc2 >> (7 + axis) & 1
        launch.enable_group_info = kernel.rsrc2 >> 10 & 1
        launch.num_id_vgprs = kernel.rsrc2 >> 11 & 3
        launch.packed_ids, launch.architected_ids = int(family.packed_ids), int(family.architected_ids)
        launch.has_acc = int(family.has_acc)
        granule = family.vgpr_granule[kernel.wave_size]
        launch.num_vgprs = min(512 if family.has_acc else 256, granule * ((kernel.rsrc1 & 63) + 1))
        launch.lds_bytes = kernel.lds_bytes + dynamic_lds
        dynamic_stack = kernel.properties >> 11 & 1
        launch.scratch_bytes = kernel.scratch_bytes + (_DYNAMIC_STACK_BYTES if dynamic_stack else 0)
        launch.max_ops, launch.check, launch.count = self.max_ops, int(self.check), int(self.count)
        self._write_kernarg(kernel, grid, block, launch, dynamic_lds, arguments)
        registers = self._user_registers(kernel, launch)
        for i, value in enumerate(registers):
            launch.user_sgprs[i] = value
        launch.num_user_sgprs = len(registers)
        return launch

    def _user_registers(self, kernel: Kernel, launch: Launch) -> list[int]:
        """User SGPRs in the order that the descriptor's properties give them."""
        kernarg, packet = self._kernarg.address, self._kernarg.address + _KERNARG_BYTES
        pointers = [(0, [0, 0, 0, 0]), (1, _words(packet)), (2, [0, 0]), (3, _words(kernarg)), (4, [0, 0]), (5, [0, 0])]
        result: list[int] = []
        for bit, words in pointers:
            if kernel.properties >> bit & 1:
                result += words
        if kernel.properties >> 6 & 1:
            result.append(launch.scratch_bytes)
        count = kernel.rsrc2 >> 1 & 31
        return (result + [0] * count)[:count]

    def _write_kernarg(
        self, kernel: Kernel, grid: Size, block: Size, launch: Launch, dynamic_lds: int, arguments: bytes
    ) -> None:
        segment = bytearray(max(kernel.kernarg_bytes, len(arguments)))
        segment[: len(arguments)] = arguments
        hidden: dict[str, int] = {
            "hidden_grid_dims": 3 if grid[2] > 1 else 2 if grid[1] > 1 else 1,
            "hidden_dynamic_lds_size": dynamic_lds,
            "hidden_shared_base": APERTURES[235],
            "hidden_private_base": APERTURES[237],
        }
        for axis, name in enumerate("xyz"):
            hidden[f"hidden_block_count_{name}"] = grid[axis]
            hidden[f"hidden_group_size_{name}"] = block[axis]
        for argument in kernel.arguments:
            if argument.kind.startswith("hidden_"):
                value = hidden.get(argument.kind, 0)
                segment[argument.offset : argument.offset + argument.size] = value.to_bytes(argument.size, "little")
        if len(segment) > _KERNARG_BYTES:
            raise BadCodeObject(f"kernel {kernel.name}: {len(segment)} bytes of arguments")
        items = [g * b for g, b in zip(grid, block, strict=True)]
        packet = struct.pack(
            "<HHHHHHIIIIIQQ", 0, 3, *block, 0, *items, launch.scratch_bytes, launch.lds_bytes, 0, self._kernarg.address
        )
        ctypes.memmove(self._kernarg.address, bytes(segment), len(segment))
        ctypes.memmove(self._kernarg.address + _KERNARG_BYTES, packet, len(packet))

    def _collect(
        self,
        counters: KernelCounters,
        workers: list[Worker],
        traffic: list[ctypes.Array[Traffic]],
        blocks: list[Block],
    ) -> None:
        counters.launches += 1
        for worker, rows in zip(workers, traffic, strict=True):
            totals = worker.totals
            counters.waves += totals.waves
            counters.barriers += totals.barriers
            counters.lds_instructions += totals.lds_instructions
            counters.lds_bytes += totals.lds_bytes
            counters.lds_conflict_cycles += totals.lds_conflict_cycles
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


def _words(address: int) -> list[int]:
    return [address & 0xFFFFFFFF, address >> 32]
