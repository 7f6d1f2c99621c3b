"""Sources of the GPU's kernels: each parameter is read, none is missing, and kernels and grids say the same."""

from __future__ import annotations

import re

import pytest

from rocmforge.artifacts.arguments import Argument
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.render import kernel_headers, render_kernel
from rocmforge.tests.kernels.hip_harness import plan
from rocmforge.tests.kernels.sources import head, kernels_of, names_at_head, names_given, names_read

SPECS: dict[str, KernelSpec] = {spec.template: spec for spec in plan("Q4_0").kernels}


@pytest.mark.parametrize("template", sorted(SPECS))
def test_a_kernel_reads_all_parameters_that_the_plan_gives_and_its_head_names_them(template: str) -> None:
    over = {"MAX_SPLITS"} if template == "attention_tiled" else set()  # it has no records
    assert names_given(SPECS[template]) - names_read("hip", template) == over
    assert names_given(SPECS[template], weights=False) <= names_at_head("hip", template)


@pytest.mark.parametrize("template", kernels_of("hip"))
def test_the_head_of_a_kernel_says_what_its_arguments_and_its_grid_are(template: str) -> None:
    text = head("hip", template)
    assert "rguments" in text
    assert "Grid: " in text


def test_each_kernel_is_used() -> None:
    others = {"activate", "elementwise", "gate", "logits_map", "position_embedding", "quantize"}  # of other families
    others |= {"altup", "columns", "gaussian_cut", "input_rows", "latent_heads", "magnitude", "merge_rows"}
    others |= {"gated_norm", "scan", "short_conv", "token_logits"}
    others |= {"expert_gemm", "expert_gemv", "expert_sum", "route"}
    adapters = {"lora_down", "lora_rows", "lora_up"}  # of models that have some
    assert set(SPECS) | others | adapters == set(kernels_of("hip"))


def test_the_lines_of_a_rendered_kernel() -> None:
    first, *lines = render_kernel("hip", SPECS["norm"]).text.splitlines()
    assert re.fullmatch(r"/\* norm_[0-9a-f]{8}: kernels/hip/norm\.h, \{.*\} \*/", first)
    assert lines == [
        f"#define SYMBOL {SPECS['norm'].symbol}",
        f"#define AT_LOGITS_ROWS {int(dict(SPECS['norm'].parameters)['at_logits_rows'])}",
        "#define COLUMNS 64",
        "#define EPSILON 1.000000000e-06f",
        f"#define OUT_Q8 {int(dict(SPECS['norm'].parameters)['out_q8'])}",
        "#define THREADS 256",
        "#define WAVE_SIZE 32",
        '#include "norm.h"',
    ]


def test_waves_of_64_lanes_take_two_tiles_and_those_of_32_only_where_there_are_plenty() -> None:
    """Of a small model's matrices there are not."""
    for arch, expected in {"gfx942": {2}, "gfx1100": {1}}.items():
        products = [dict(spec.parameters) for spec in plan("Q4_0", arch).kernels if spec.template == "gemv"]
        assert {product["row_tiles"] for product in products if not product["gate_up"]} == expected
        assert {product["row_tiles"] for product in products if product["gate_up"]} == {2}


@pytest.mark.parametrize("arch", ["gfx906", "gfx1100", "gfx942"])
def test_workgroups_are_as_large_as_the_kernels_say(arch: str) -> None:
    """THREADS of a header, where it is a number, is the grid's; launches of a node leave out no count of rows."""
    made = plan("Q4_0", arch)
    headers, specs = kernel_headers("hip"), {spec.symbol: spec for spec in made.kernels}
    seen: dict[tuple[Argument, ...], int] = {}
    for launch in made.launches:
        spec, grid = specs[launch.kernel], launch.grid
        assert grid is not None
        assert grid.threads <= 1024
        found = re.search(r"#define THREADS (\d+)$", headers.get(f"{spec.template}.h", ""), re.MULTILINE)
        if found:
            assert grid.threads == int(found[1])
        if spec.template in {"gemv", "gemm"}:
            assert grid.at_least == seen.get(launch.arguments, 0) + 1
            seen[launch.arguments] = grid.at_most
    assert set(seen.values()) == {(1 << 31) - 1}
