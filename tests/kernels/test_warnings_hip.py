"""The GPU's kernels compile without any warning, and name a parameter that they are not given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.artifacts.formats import FORMATS
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.render import render_kernel
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.kernels.hip_harness import plan
from rocmforge.tests.kernels.sources import WARNINGS

SPECS = {spec.template: spec for spec in plan("Q4_0").kernels}


def build(arch: str, specs: list[KernelSpec], cache: BuildCache) -> None:
    target = TARGETS[arch]
    (variant,) = target.variants
    sources = tuple(render_kernel("hip", spec) for spec in specs)
    warned = replace(target, variants=(replace(variant, flags=(*variant.flags, *WARNINGS)),))
    build_variants(sources, warned, find_toolchain("clang", target), cache, lambda _done, _total: None, 2)


@pytest.mark.parametrize("arch", ["gfx906", "gfx908", "gfx942", "gfx1030", "gfx1100", "gfx1201"])
def test_each_kernel_compiles_without_a_warning(arch: str, build_cache: BuildCache) -> None:
    build(arch, list(plan("Q4_0", arch).kernels), build_cache)


@pytest.mark.parametrize("weight_type", FORMATS)
def test_products_of_each_weight_format_compile_without_a_warning(weight_type: str, build_cache: BuildCache) -> None:
    one_of_each = {spec.template: spec for spec in plan("Q4_0").kernels if "weight_type" in dict(spec.parameters)}
    specs = [
        KernelSpec(name, tuple(sorted({**dict(spec.parameters), "weight_type": weight_type, "columns": 256}.items())))
        for name, spec in one_of_each.items()
    ]
    build("gfx1100", specs, build_cache)


# Of these, blocks come from GATE_UP alone, tiles have no records, WMMA no dots.
UNREAD = {
    "attention_tiled": {"max_splits"},
    "gemm": {"out_q8", "dot"},
    "gemv": {"out_q8"},
}


@pytest.mark.parametrize("template", sorted(SPECS))
def test_a_missing_parameter_is_a_defect_that_is_named(template: str, build_cache: BuildCache) -> None:
    special = {
        "columns": "columns|COLUMNS",  # the symbol misses it too
        "weight_type": "ELEMENT_BYTES|PIECE",
        "dot": "dot4",
        "matrix": "LANE_ROWS|WAVE_TOKENS|lane_row",
    }
    for name in dict(SPECS[template].parameters):
        if name in UNREAD.get(template, ()):
            continue
        rest = tuple(item for item in SPECS[template].parameters if item[0] != name)
        with pytest.raises((ToolchainError, KeyError), match=special.get(name, name.upper())):
            build("gfx1100", [KernelSpec(template, rest)], build_cache)
