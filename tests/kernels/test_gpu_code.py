"""Kernels of real shapes build for every kind of GPU, and none spills. `tools/generate/gpu_code.py` builds all shapes,
types and arches; here is one arch of each kind, with the largest shapes where most have matrix instructions."""

from __future__ import annotations

import pytest

from rocmforge.artifacts.code_object import read_code_object
from rocmforge.artifacts.layout import KV_DTYPES
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Node, Value, Weight
from rocmforge.compiler.render import render_kernel
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.kernels.hip_harness import CONFIG, lower
from rocmforge.tools.generate.gpu_code import SHAPES, build_shape, wasteful

KINDS = {target.gpu: target.arch for target in TARGETS.values() if target.gpu is not None}
LARGE = {
    "gfx11-generic": ("llama-8b", "Q4_K"),
    "gfx9-4-generic": ("llama-8b", "Q4_K"),
    "gfx12-generic": ("llama-1b", "Q6_K"),
}
CASES = [
    (*LARGE.get(arch, ("smollm2-135m", "Q4_1")), arch, kv_dtype) for arch in KINDS.values() for kv_dtype in KV_DTYPES
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


def published_scans() -> list[tuple[Node, tuple[Value, ...], tuple[Weight, ...]]]:
    """Of Qwen3.5 9B, Kimi Linear, Falcon-H1 and FalconMamba, whose states have most rows; and LFM2's convolution."""
    found = []
    for kind, heads, state, columns, inputs, weights in (
        ("delta", 32, 128, 128, {"qkv": 8192, "gates": 64}, {"a": (32,), "bias": (32,)}),
        ("kda", 32, 128, 128, {"qkv": 12288, "decay": 4096, "beta": 32}, {"a": (32,), "bias": (4096,)}),
        ("mamba2", 32, 256, 128, {"x": 4608, "dt": 32, "b": 256, "c": 256}, {"a": (32,), "d": (32,), "bias": (32,)}),
        ("mamba", 8192, 16, 1, {"x": 8192, "dt": 8192, "b": 16, "c": 16}, {"a": (8192, 16), "d": (8192,)}),
    ):
        attributes: dict[str, Attribute] = {"kind": kind, "heads": heads, "state": state, "columns": columns}
        attributes |= {"epsilon": 1e-6} if kind in ("delta", "kda") else {}
        attributes |= {"key_heads": 16} if kind == "delta" else {}
        values = [Value(name, "T", count) for name, count in (*inputs.items(), ("y", heads * columns))]
        table = [Weight(name, shape, "F32") for name, shape in weights.items()]
        found.append((Node("scan", tuple(inputs), "y", tuple(weights), attributes), tuple(values), tuple(table)))
    node = Node("short_conv", ("x",), "y", ("w",), {"activation": "none", "first": 4096, "times_first": 0})
    found.append((node, (Value("x", "T", 6144), Value("y", "T", 2048)), (Weight("w", (2048, 3), "F32"),)))
    return found


@pytest.mark.parametrize("arch", KINDS.values())
def test_no_scan_spills_or_takes_scratch(arch: str, build_cache: BuildCache) -> None:
    kernels = [kernel for one in published_scans() for kernel, _ in lower(arch, *one, CONFIG)]
    sources = tuple(render_kernel("hip", kernel) for kernel in kernels)
    target = TARGETS[arch]
    (code,) = build_variants(
        sources, target, find_toolchain("clang", target), build_cache, lambda _done, _total: None, 2
    )
    facts = read_code_object(code.data)
    assert len(facts.kernels) == 5
    assert wasteful(facts) == ()
