"""Kernels of real shapes build for every kind of GPU, and none spills. `tools/generate/gpu_code.py` builds all shapes,
types and arches; here is one arch of each kind, and the largest shape where registers are scarcest."""

from __future__ import annotations

import pytest

from rocmforge.artifacts.layout import KV_DTYPES
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.target import TARGETS
from rocmforge.tools.generate.gpu_code import SHAPES, build_shape, wasteful

KINDS = {target.gpu: target.arch for target in TARGETS.values() if target.gpu is not None}
CASES = [
    *(("smollm2-135m", "Q4_1", arch, kv_dtype) for arch in KINDS.values() for kv_dtype in KV_DTYPES),
    *(("llama-8b", "Q4_K", arch, kv_dtype) for arch in ("gfx1100", "gfx942") for kv_dtype in KV_DTYPES),
    ("llama-1b", "Q6_K", "gfx1201", "f16"),
]


@pytest.mark.parametrize("shape, weight_type, arch, kv_dtype", CASES)
def test_no_kernel_spills_or_takes_scratch(
    shape: str, weight_type: str, arch: str, kv_dtype: str, build_cache: BuildCache
) -> None:
    facts = build_shape(SHAPES[shape], weight_type, TARGETS[arch], build_cache, 2, kv_dtype)
    assert facts.arch == arch
    assert {kernel.name.split("_")[0] for kernel in facts.kernels} >= {"gemv", "gemm", "attention", "norm", "sample"}
    assert wasteful(facts) == ()
    limits = TARGETS[arch].gpu
    assert limits is not None
    assert all(kernel.lds_bytes <= limits.lds_bytes for kernel in facts.kernels)
    assert all(kernel.max_threads <= limits.max_threads for kernel in facts.kernels)
