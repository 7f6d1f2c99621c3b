"""Runs single GPU kernels on the emulator: builds them, lays a step out in device memory, launches by grid entries.

The structures mirror kernels/hip/prelude.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.layout import GridEntry, KvLayout, LaunchEntry
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.buffers import assign_buffers
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Graph, Node, Value, Weight
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.lower_hip import Q8_BLOCKS, HipPlanner
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.passes import run_passes
from rocmforge.compiler.plan import KernelSpec, Plan
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.compiler.render import render_kernel
from rocmforge.compiler.target import TARGETS
from rocmforge.compiler.tuning import DEFAULT_TUNING, Tuning
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip.api import HOST_MALLOC_COHERENT
from rocmforge.tests.kernels.kernel_harness import Array, Float32, Float64, Step
from rocmforge.tools.emulator import HipEmulator, KernelCounters

ARCHES = ("gfx1100", "gfx1201", "gfx942")
"""One of each family that the emulator runs: WMMA of two kinds, MFMA with waves of 64."""

Q8_BLOCK = np.dtype([("quants", "i1", 32), ("scales", "<f4", 2), ("sums", "<i2", 2), ("scaled_sum", "<f4")])
"""struct q8_block."""

STEP_NUMBER = 0x123456789ABCDEF0
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2


def q8_rows(x: Float32) -> npt.NDArray[np.void]:
    """float32[rows, columns] as `Q8_BLOCK`[rows, columns / 32], as kernels/hip/activation.h says, to the bit."""
    halves = x.reshape(len(x), -1, 2, 16)
    largest = np.abs(halves).max(axis=-1)
    with np.errstate(divide="ignore"):
        factors = np.where(largest > 0, np.float32(127) / largest, np.float32(0)).astype(np.float32)
    quants = np.rint(halves * factors[..., None]).astype(np.int8)
    blocks = np.zeros(halves.shape[:2], Q8_BLOCK)
    blocks["scales"] = largest / np.float32(127)
    blocks["sums"] = quants.sum(axis=-1)
    products = blocks["scales"] * blocks["sums"].astype(np.float32)
    blocks["scaled_sum"] = products[..., 0] + products[..., 1]
    blocks["quants"] = quants.reshape(*blocks.shape, 32)
    return blocks


def q8_values(blocks: npt.NDArray[np.void]) -> Float64:
    """float64[rows, columns] that blocks stand for, exactly."""
    scales = np.repeat(blocks["scales"].astype(np.float64), 16, axis=-1)
    return np.asarray((scales * blocks["quants"]).reshape(len(blocks), -1), np.float64)


class Gpu:
    """An emulated GPU with one module of kernels.

    Args:
        prologue: of each kernel's source, such as what stands for an instruction that the GPU has not.
    """

    def __init__(self, arch: str, specs: Iterable[KernelSpec], cache: BuildCache, prologue: str = "") -> None:
        target = TARGETS[arch]
        rendered = (render_kernel("hip", spec) for spec in {spec.symbol: spec for spec in specs}.values())
        sources = tuple(replace(source, text=prologue + source.text) for source in rendered)
        (code,) = build_variants(sources, target, find_toolchain("clang", target), cache, lambda _done, _total: None, 2)
        self.api = HipEmulator(arch)
        self.code = code.data
        self.module = ctypes.c_void_p()
        self._check(self.api.hipModuleLoadData(ctypes.byref(self.module), code.data))

    def _check(self, code: int) -> None:
        names = self.api.hipGetErrorName(code).decode(), self.api.hipGetErrorString(code).decode()
        assert code == 0, ": ".join(names)

    def _upload(self, array: Array, pointers: list[ctypes.c_void_p]) -> int:
        pointer = ctypes.c_void_p()
        self._check(self.api.hipMalloc(ctypes.byref(pointer), max(array.nbytes, 4)))
        self._check(self.api.hipMemcpy(pointer, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE))
        pointers.append(pointer)
        assert pointer.value is not None
        return pointer.value

    def pinned(self, array: Array, pointers: list[ctypes.c_void_p]) -> int:
        """Address of pinned host memory that holds a copy of an array."""
        pointer = ctypes.c_void_p()
        self._check(self.api.hipHostMalloc(ctypes.byref(pointer), max(array.nbytes, 4), HOST_MALLOC_COHERENT))
        assert pointer.value is not None
        ctypes.memmove(pointer.value, array.ctypes.data, array.nbytes)
        pointers.append(pointer)
        return pointer.value

    def _upload_mask(self, mask: Array | None, pointers: list[ctypes.c_void_p]) -> tuple[int, int]:
        """Where the kernel is to have it, and where the host wrote it."""
        if mask is None:
            return 0, 0
        return self._upload(np.full_like(mask, 0x5A5A5A5A), pointers), self.pinned(mask, pointers)

    def _upload_sampling(
        self, rows: Sequence[RowSampling], masks: Sequence[Array | None], pointers: list[ctypes.c_void_p]
    ) -> int:
        packed, none = b"", np.zeros(0, np.int32)
        for row, mask in zip(rows, masks or [None] * len(rows), strict=True):
            seen, counts = (none if x is None else x for x in (row.seen_tokens, row.seen_counts))
            bias_tokens, biases = (none if x is None else x for x in (row.bias_tokens, row.biases))
            originals = np.zeros(len(seen) + len(bias_tokens), np.float32) if row.keep_logits else None
            packed += struct.pack(
                "<3fi3fi2Q2Q2Qfi3Q",
                *(row.temperature, row.top_p, row.min_p, row.top_k),
                *(row.repetition_penalty, row.presence_penalty, row.frequency_penalty, len(seen)),
                *(self._upload(seen, pointers), self._upload(counts, pointers), row.seed, row.counter),
                *self._upload_mask(row.wait_for_mask() if mask is None else mask, pointers),
                *(row.typical_p, len(bias_tokens)),
                *(self._upload(bias_tokens, pointers), self._upload(biases, pointers)),
                0 if originals is None else self._upload(originals, pointers),
            )
        return self._upload(np.frombuffer(packed, np.uint8), pointers)

    def run(
        self,
        kernel: KernelSpec,
        grid: GridEntry,
        step: Step,
        *arguments: Array | None,
        sampling: Sequence[RowSampling] = (),
        masks: Sequence[Array | None] = (),
    ) -> Array:
        """Launch a kernel as the runtime does; arrays are copied in, and back out after it.

        Args:
            sampling: one a row of logits.
            masks: of the tokens that are allowed, uint32 with a bit each, one a row of logits.
        Returns:
            int32[rows of logits], what was sampled.
        """
        pointers: list[ctypes.c_void_p] = []
        fields = (step.token_ids, step.positions, step.rows, step.block_table, step.logits_rows)
        arrays = [np.ascontiguousarray(value, np.int32) for value in fields]
        num_logits = max(len(step.logits_rows), len(sampling))
        sampled = np.full(max(num_logits, 1), -2, np.int32)
        addresses = [self._upload(array, pointers) for array in arrays]
        addresses += [self._upload_sampling(sampling, masks, pointers), self._upload(sampled, pointers)]
        sampled_at = pointers[-1]
        addresses.append(STEP_NUMBER)
        addresses.append(0 if step.adapter_scales is None else self._upload(step.adapter_scales, pointers))
        addresses.append(len(step.state_from))
        for ids in (step.sequence_starts, step.state_from, step.state_to):
            addresses.append(self._upload(np.array(ids, np.int32), pointers) if step.state_from else 0)
        if step.input_rows is None:
            addresses += [0, 0]
        else:
            row_of = self._upload(np.array(step.row_of, np.int32), pointers)
            addresses += [self.pinned(step.input_rows, pointers), row_of]
        rotary = np.array(step.rope_positions, np.int32)
        addresses.append(self._upload(rotary, pointers) if step.rope_positions else 0)
        packed = struct.pack("<4i16Q", step.num_tokens, num_logits, arrays[3].shape[-1], 0, *addresses)
        values = [self._upload(np.frombuffer(packed, np.uint8), pointers)]
        for index, array in enumerate(arguments):
            values.append(0 if array is None else self._upload(array, pointers))
            if array is not None:
                self.api.label(pointers[-1], f"argument {index}")
        self._launch(kernel, grid, step, num_logits, (values + [0] * 8)[:9])
        for array, value in zip(arguments, values[1:], strict=True):
            if array is not None:
                self._check(self.api.hipMemcpy(array.ctypes.data, value, array.nbytes, _DEVICE_TO_HOST))
        self._check(self.api.hipMemcpy(sampled.ctypes.data, sampled_at, sampled.nbytes, _DEVICE_TO_HOST))
        self.free(pointers)
        return sampled[:num_logits]

    def free(self, pointers: list[ctypes.c_void_p]) -> None:
        """Give memory back, of either kind."""
        for pointer in pointers:
            if self.api.hipFree(pointer) != 0:
                self._check(self.api.hipHostFree(pointer))

    def _launch(self, kernel: KernelSpec, grid: GridEntry, step: Step, num_logits: int, values: list[int]) -> None:
        counts = {"tokens": step.num_tokens, "logits": num_logits, "none": 1, "sequences": len(step.state_from)}
        count = counts[grid.rows.removeprefix("adapted_")]
        z = -(-(max(step.positions) + 1) // grid.split) if grid.split else 1
        self._check(self._start(kernel, (grid.x, -(-count // grid.tile), z), grid.threads, values, None))

    def _start(
        self,
        kernel: KernelSpec,
        grid: tuple[int, int, int],
        threads: int,
        values: Sequence[int],
        stream: ctypes.c_void_p | None,
    ) -> int:
        function = ctypes.c_void_p()
        self._check(self.api.hipModuleGetFunction(ctypes.byref(function), self.module, kernel.symbol.encode()))
        cells = [ctypes.c_void_p(value) for value in values]
        table = (ctypes.c_void_p * 9)(*(ctypes.addressof(cell) for cell in cells))
        return self.api.hipModuleLaunchKernel(function, *grid, threads, 1, 1, 0, stream, table, None)

    def launch_at(
        self, kernel: KernelSpec, grid: GridEntry, step: int, argument: int, stream: ctypes.c_void_p | None = None
    ) -> int:
        """Launch one workgroup on a step that lies at an address, with one argument; HIP's answer."""
        return self._start(kernel, (1, 1, 1), grid.threads, [step, argument] + [0] * 7, stream)

    def run_at(self, kernel: KernelSpec, grid: GridEntry, step: Array, argument: int) -> None:
        """The same, where the step is `step`, copied in and back out."""
        pointers: list[ctypes.c_void_p] = []
        address = self._upload(step, pointers)
        self._check(self.launch_at(kernel, grid, address, argument))
        self._check(self.api.hipMemcpy(step.ctypes.data, address, step.nbytes, _DEVICE_TO_HOST))
        self.free(pointers)

    def counters(self, kernel: KernelSpec) -> KernelCounters:
        """What a kernel has cost so far."""
        return self.api.counters()[kernel.symbol]


class Gpus:
    """Emulated GPUs, each loaded with the kernels that a test names."""

    def __init__(self, cache: BuildCache) -> None:
        self.cache = cache

    def __call__(self, arch: str, *launches: Launches) -> Gpu:
        return Gpu(arch, [kernel for some in launches for kernel, _ in some], self.cache)


SILU = {"activation": "silu"}
CONFIG = ModelConfig(
    architecture="llama",
    name="",
    hidden_size=64,
    intermediate_size=64,
    num_layers=1,
    num_heads=3,
    num_kv_heads=1,
    head_dim=32,
    vocab_size=64,
    max_seq_len=304,
    rope_theta=1e4,
    norm_epsilon=1e-6,
    rope_style="interleaved",
    rope_dim=32,
    rope_scaling=RopeScaling(),
    tie_word_embeddings=True,
)
Launches = tuple[tuple[KernelSpec, GridEntry], ...]


def lower(
    arch: str,
    node: Node,
    values: Sequence[Value],
    weights: Sequence[Weight],
    config: ModelConfig,
    kv_dtype: str = "f16",
    tuning: Tuning = DEFAULT_TUNING,
) -> Launches:
    """What one node becomes: its kernels and their grids, in order."""
    table = {weight.name: weight for weight in (*weights, Weight("source", (64, 64), "F32"))}
    sources = tuple(Node("embedding", (), name, ("source",)) for name in dict.fromkeys(node.inputs))
    graph = Graph((*sources, node), {value.name: value for value in values}, table)
    buffers = assign_buffers(graph, TARGETS[arch], Q8_BLOCKS)
    kv = KvLayout(1, config.num_kv_heads, config.head_dim, 16, kv_dtype)
    planner = HipPlanner(graph, TARGETS[arch], buffers, kv, config.max_seq_len, tuning)
    OPERATIONS[node.op].hip(planner, node)
    return tuple((planner.kernels[launch.kernel], grid_of(launch)) for launch in planner.launches)


def grid_of(launch: LaunchEntry) -> GridEntry:
    assert launch.grid is not None
    return launch.grid


def fitting(launches: Launches, count: int) -> Launches:
    """Those that the runtime launches for so many rows."""
    return tuple((kernel, grid) for kernel, grid in launches if grid.at_least <= count <= grid.at_most)


def plan(kind: str, arch: str = "gfx1100") -> Plan:
    """Of a model of one layer whose weights are of that type, but for a float matrix behind SwiGLU."""
    width, inner = CONFIG.num_heads * CONFIG.head_dim, 64
    shapes = {
        "attention_q": (width, 64),
        "attention_k": (32, 64),
        "attention_v": (32, 64),
        "attention_output": (64, width),
        "ffn_gate": (inner, 64),
        "ffn_up": (inner, 64),
    }
    weights = {
        "rope_table": Weight("rope_table", (CONFIG.max_seq_len, CONFIG.rope_dim), "F32"),
        "token_embedding": Weight("token_embedding", (64, 64), kind),
        "output_norm": Weight("output_norm", (64,), "F32"),
        "layers.0.attention_norm": Weight("layers.0.attention_norm", (64,), "F32"),
        "layers.0.ffn_norm": Weight("layers.0.ffn_norm", (64,), "F32"),
        "layers.0.ffn_down": Weight("layers.0.ffn_down", (64, inner), "F16"),
        **{f"layers.0.{name}": Weight(f"layers.0.{name}", shape, kind) for name, shape in shapes.items()},
    }
    graph = run_passes(build_graph(CONFIG, weights))
    return make_plan(graph, TARGETS[arch], CONFIG.max_seq_len)
