"""The GPU's kernels compile without any warning, and name a parameter that they are not given."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.artifacts.formats import FORMATS
from rocmforge.compiler.hip_toolchain import find_clang
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.render import render_kernel
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.kernels.hip_harness import plan
from rocmforge.tests.kernels.sources import parse_alone, write_headers

SPECS = {spec.template: spec for spec in plan("Q4_0").kernels}
clang = cache(find_clang)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernels' headers."""
    return write_headers("hip", tmp_path_factory.mktemp("warnings"))


def check(arch: str, specs: list[KernelSpec], folder: Path) -> None:
    (variant,) = TARGETS[arch].variants
    parse_alone(clang().hip, clang().flags(variant), (render_kernel("hip", spec) for spec in specs), folder)


@pytest.mark.parametrize("arch", ["gfx906", "gfx908", "gfx942", "gfx1030", "gfx1100", "gfx1201"])
def test_each_kernel_compiles_without_a_warning(arch: str, folder: Path) -> None:
    check(arch, list(plan("Q4_0", arch).kernels), folder)


@pytest.mark.parametrize("weight_type", FORMATS)
def test_products_of_each_weight_format_compile_without_a_warning(weight_type: str, folder: Path) -> None:
    one_of_each = {spec.template: spec for spec in plan("Q4_0").kernels if "weight_type" in dict(spec.parameters)}
    specs = [
        KernelSpec(name, tuple(sorted({**dict(spec.parameters), "weight_type": weight_type, "columns": 256}.items())))
        for name, spec in one_of_each.items()
    ]
    check("gfx1100", specs, folder)


# Of these, blocks come from GATE_UP alone, tiles have no records, WMMA no dots.
UNREAD = {
    "attention_tiled": {"max_splits"},
    "gemm": {"out_q8", "dot"},
    "gemv": {"out_q8"},
}


@pytest.mark.parametrize("template", sorted(SPECS))
def test_a_missing_parameter_is_a_defect_that_is_named(template: str, folder: Path) -> None:
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
            check("gfx1100", [KernelSpec(template, rest)], folder)
