"""Elementary functions of the GPU's kernels are the same to the bit whichever clang makes them, on an emulator whose
reciprocals and roots are as far off as AMD lets the hardware's be."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.compiler.build import build_variants
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.hip_toolchain import find_hip_toolchain
from rocmforge.compiler.render import Source
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.kernels.kernel_harness import Float32
from rocmforge.tools.emulator import HipEmulator

COUNT = 1 << 14
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1.0, 4.0, 2.0**-96, 2.0**-97, 2.0**-126, 2.0**-149, 3.4e38]


def operands() -> Float32:
    """Numbers of all sizes, subnormal ones among them, and squares of numbers and their neighbours."""
    random = np.random.default_rng(1)
    bits = random.integers(0, 0x7F800000, COUNT // 2, np.int64).astype(np.uint32).view(np.float32)
    squares = (random.integers(1, 1 << 12, COUNT // 2) ** 2).astype(np.float32)
    near = (squares.view(np.int32) + random.integers(-1, 2, COUNT // 2)).astype(np.int32).view(np.float32)
    found = np.concatenate([bits, near]).astype(np.float32)
    found[: len(EDGES)] = EDGES
    return found


def compute(arch: str, toolchain: str, expression: str, x: Float32, cache: BuildCache) -> Float32:
    """What a kernel makes of each x by an expression of C."""
    target = TARGETS[arch]
    assert target.gpu is not None
    text = f"""#define SYMBOL elementary
#define WAVE_SIZE {target.gpu.wave_size}
#include "prelude.h"
KERNEL(64) SYMBOL(KERNEL_ARGUMENTS)
{{
    const int32_t i = group_x() * 64 + thread_index();
    const float x = ((const GLOBAL_MEMORY float *)a0)[i];
    ((GLOBAL_MEMORY float *)a0)[i] = {expression};
}}
"""
    sources = (Source("elementary.hip", text, False),)
    chosen = find_hip_toolchain(toolchain, arch)
    (code,) = build_variants(sources, target, chosen, cache, lambda _done, _total: None, 1)
    api, found = HipEmulator(arch), x.copy()
    module, function, pointer = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert api.hipModuleLoadData(ctypes.byref(module), code.data) == 0
    assert api.hipModuleGetFunction(ctypes.byref(function), module, b"elementary") == 0
    assert api.hipMalloc(ctypes.byref(pointer), x.nbytes) == 0
    assert api.hipMemcpy(pointer, found.ctypes.data, x.nbytes, 1) == 0
    cells = [ctypes.c_void_p(), pointer, *(ctypes.c_void_p() for _ in range(7))]
    table = (ctypes.c_void_p * 9)(*map(ctypes.addressof, cells))
    assert api.hipModuleLaunchKernel(function, len(x) // 64, 1, 1, 64, 1, 1, 0, None, table, None) == 0
    assert api.hipMemcpy(found.ctypes.data, pointer, x.nbytes, 2) == 0
    return found


@pytest.mark.parametrize("arch, toolchain", [("gfx1100", "clang"), ("gfx942", "clang"), ("gfx1100", "hipcc")])
def test_roots_and_quotients_are_rounded_once(arch: str, toolchain: str, build_cache: BuildCache) -> None:
    x = operands()
    try:
        roots = compute(arch, toolchain, "float_sqrt(x)", x, build_cache)
    except ToolchainError as error:
        pytest.skip(str(error))
    with np.errstate(all="ignore"):
        assert _same(roots, np.sqrt(x))
        assert _same(compute(arch, toolchain, "1.0f / x", x, build_cache), np.float32(1) / x)
        assert _same(compute(arch, toolchain, "x / 127.0f", x, build_cache), x / np.float32(127))


def test_the_bare_instruction_is_not_the_root(build_cache: BuildCache) -> None:
    """Else the test above would show nothing."""
    x = operands()[len(EDGES) : COUNT // 2]
    bare = compute("gfx1100", "clang", "__builtin_amdgcn_sqrtf(x)", np.resize(x, COUNT).astype(np.float32), build_cache)
    wrong = bare != np.sqrt(np.resize(x, COUNT).astype(np.float32))
    assert 0.4 < wrong.mean() < 0.6


def _same(found: Float32, wanted: Float32) -> bool:
    """Equal bits, but that any NaN is like any other."""
    numbers = ~np.isnan(wanted)
    return bool((np.isnan(found) == ~numbers).all() and (found[numbers].view("u4") == wanted[numbers].view("u4")).all())
