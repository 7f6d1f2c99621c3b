"""Sources of the host's kernels: nothing missing, nothing over, and always the same text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import rocmforge.compiler.build as build_module
from rocmforge.artifacts.errors import ToolchainError
from rocmforge.artifacts.formats import FORMATS
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.build import build_variants, find_toolchain, render_sources
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.host_toolchain import find_host_toolchain
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.passes import run_passes
from rocmforge.compiler.plan import KernelSpec, Parameter, Plan
from rocmforge.compiler.render import Source, kernel_headers, render_kernel, render_program
from rocmforge.compiler.target import TARGETS, CodeVariant, Target
from rocmforge.tests.kernels.kernel_harness import spec
from rocmforge.tests.kernels.sources import (
    head,
    kernels_of,
    names_at_head,
    names_given,
    names_read,
    parse_alone,
    write_headers,
)
from rocmforge.tests.oracles.graph_interpreter import make_weights
from rocmforge.tests.support.graphs import CONFIGS, TYPES

HOST = TARGETS["host"]
DATA = Path(__file__).parents[2] / "data"
KERNELS = kernels_of("host")

_Q4_1: dict[str, Parameter] = {"weight_type": "Q4_1", "columns": 64}
TINY: Mapping[str, KernelSpec] = {
    "attention": spec(
        "attention", num_heads=2, num_kv_heads=1, head_dim=32, kv_q8_0=False, scale="1.767766953e-01f", out_q8=True
    ),
    "activate": spec("activate", columns=24, activation="gelu", out_q8=False, at_logits_rows=False),
    "elementwise": spec(
        "elementwise", columns=24, combine="add", other_columns=24, other_stride=0, at_logits_rows=False
    ),
    "token_logits": spec("token_logits", columns=24, stride=10, at_logits_rows=True),
    "logits_map": spec("logits_map", columns=24, scale="1.0f", softcap="30.0f", at_logits_rows=True),
    "position_embedding": spec("position_embedding", **_Q4_1),
    "embedding": spec("embedding", **_Q4_1),
    "gate_up": spec("gate_up", rows=32, out_q8=False, activation="silu", activation_bytes=104, **_Q4_1),
    "matmul": spec(
        "matmul",
        rows=17,
        out_stride=20,
        out_offset=3,
        has_bias=True,
        accumulate=False,
        at_logits_rows=True,
        activation_bytes=104,
        **_Q4_1,
    ),
    "norm": spec("norm", columns=64, epsilon="1.000000000e-05f", out_q8=True, at_logits_rows=False),
    "quantize": spec("quantize", columns=64),
    "rope_kv": spec(
        "rope_kv",
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        kv_q8_0=True,
        rope_dim=16,
        interleaved=True,
        qk_norm=False,
        epsilon="1.000000000e-05f",
    ),
    "sample": spec("sample", vocab_size=50),
    "gate": spec("gate", columns=24, activation="silu"),
    "route": spec(
        "route",
        experts=9,
        used=3,
        scoring="sigmoid",
        has_bias=True,
        normalise=True,
        scale="1.5f",
        groups=3,
        groups_used=2,
    ),
    "expert_matmul": spec(
        "expert_matmul",
        experts=5,
        used=2,
        rows=17,
        out_stride=40,
        out_offset=3,
        each=False,
        weighted=True,
        has_bias=True,
        has_scale=True,
        activation_bytes=104,
        **_Q4_1,
    ),
    "expert_sum": spec("expert_sum", columns=24, used=3, weighted=False, scale="0.5f"),
    "lora_down": spec("lora_down", columns=24, adapters=2, num_segments=3, ranks=10, at_logits_rows=False),
    "lora_rows": spec("lora_rows", adapters=2, num_segments=3, ranks=10, at_logits_rows=False),
    "lora_up": spec("lora_up", columns=24, adapters=2, num_segments=3, ranks=10, at_logits_rows=True),
    "altup": spec("altup", kind="correct", streams=4, stream_columns=24),
    "columns": spec("columns", columns=24, first=7, stride=40),
    "gated_norm": spec(
        "gated_norm",
        columns=96,
        group=32,
        norm="before",
        activation="silu",
        epsilon="1.0e-05f",
        weight_columns=32,
        gate_stride=112,
        gate_first=3,
        out_q8=True,
    ),
    "short_conv": spec(
        "short_conv",
        channels=24,
        taps=4,
        stride=40,
        first=7,
        has_bias=True,
        activation="silu",
        state_bytes=320,
    ),
    "scan": spec(
        "scan",
        kind="delta",
        heads=4,
        state=16,
        columns=24,
        key_heads=2,
        gate_heads=2,
        modulo=True,
        epsilon="1.0e-05f",
        qkv_stride=170,
        qkv_first=3,
        gates_stride=9,
        gates_first=1,
        state_bytes=8192,
    ),
    "gaussian_cut": spec("gaussian_cut", columns=24, deviations="1.6f"),
    "input_rows": spec("input_rows", columns=24, width=40, first=7, keeps=True, adds=False),
    "latent_heads": spec("latent_heads", num_heads=3, rank=16, tail_dim=6, absorbed=True),
    "merge_rows": spec("merge_rows", columns=96, source_columns=24, merged=4, kind="turned"),
    "magnitude": spec("magnitude", columns=24, groups=3, least="1.0e-05f", joined=True),
}


def all_plans() -> list[Plan]:
    return [
        make_plan(run_passes(build_graph(config, make_weights(config, types))), HOST, config.max_seq_len)
        for config in CONFIGS.values()
        for types in TYPES.values()
    ]


def test_there_is_a_case_for_each_kernel() -> None:
    assert sorted(TINY) == KERNELS


def test_a_kernel_reads_all_parameters_that_it_is_given_and_its_head_names_them() -> None:
    seen = set()
    for kernel in (*(kernel for plan in all_plans() for kernel in plan.kernels), *TINY.values()):
        assert names_given(kernel) <= names_read("host", kernel.template), kernel.template
        assert names_given(kernel, weights=False) <= names_at_head("host", kernel.template), kernel.template
        seen.add(kernel.template)
    assert sorted(seen) == KERNELS


@pytest.mark.parametrize("template", KERNELS)
def test_the_head_of_a_kernel_says_what_its_arguments_and_its_work_items_are(template: str) -> None:
    text = head("host", template)
    assert "Constants" in text
    assert "Arguments: " in text
    assert "A work item is " in text


@pytest.mark.parametrize("template", KERNELS)
def test_a_missing_parameter_is_a_defect_that_is_named(template: str, folder: Path) -> None:
    kernel = TINY[template]
    for index, (name, _) in enumerate(kernel.parameters):
        without = replace(kernel, parameters=kernel.parameters[:index] + kernel.parameters[index + 1 :])
        # Columns are already missed by the symbol.
        expected = {"columns": "columns|COLUMNS", "weight_type": "ELEMENT_BYTES|LOAD_ELEMENTS"}.get(name, name.upper())
        with pytest.raises((ToolchainError, KeyError), match=expected):
            parse_warned([render_host(without)], folder)


@pytest.mark.parametrize("template", [*KERNELS, "program"])
def test_rendered_text_is_the_recorded_one(template: str) -> None:
    """After a change that is meant: `python -m rocmforge.tests.component.compiler.test_templates` records anew."""
    assert rendered(template).text == (DATA / f"golden_{template}.c").read_text("utf-8")


def rendered(template: str) -> Source:
    return render_program() if template == "program" else render_kernel("host", TINY[template])


@pytest.mark.parametrize("template", KERNELS)
def test_a_source_opens_with_what_it_was_made_from(template: str) -> None:
    kernel, source = TINY[template], rendered(template)
    assert source.name == f"{kernel.symbol}.c"
    first = source.text.splitlines()[0]
    found = re.fullmatch(r"/\* (\w+): (\S+), (\{.*\}) \*/", first)
    assert found is not None
    assert found[1] == kernel.symbol
    assert found[1].endswith(kernel.digest[:8])
    assert found[2] == f"kernels/host/{template}.h"
    assert json.loads(found[3]) == dict(kernel.parameters)


def test_sources_hold_no_path_time_or_name_of_a_machine() -> None:
    texts = [source.text for plan in all_plans() for source in render_sources(plan, HOST)]
    for text in {*texts, *kernel_headers("host").values()}:
        assert not re.search(r'"/|/(home|tmp|root|usr|work|build)\b', text)
        assert not re.search(r"__(FILE|DATE|TIME|TIMESTAMP|BASE_FILE)__", text)
        assert not re.search(r"\b(19|20)\d\d-\d\d-\d\d\b", text)
        assert text.isascii()
        assert text.endswith("\n")


def test_rendering_twice_gives_the_same_sources() -> None:
    one, other = ([render_sources(plan, HOST) for plan in all_plans()[:8]] for _ in range(2))
    assert one == other


@pytest.mark.parametrize("level", [variant.level for variant in HOST.variants])
def test_each_kernel_compiles_without_a_warning(level: str, folder: Path) -> None:
    variant = next(variant for variant in HOST.variants if variant.level == level)
    assert {"-Wall", "-Wextra", "-Werror"} <= set(find_host_toolchain().flags(variant))
    formats = [replaced(TINY["matmul"], weight_type=name, columns=256) for name in FORMATS]
    kernels = [*formats, replaced(TINY["attention"], kv_q8_0=True), replaced(TINY["norm"], out_q8=False)]
    parse_warned((*(rendered(name) for name in (*KERNELS, "program")), *map(render_host, kernels)), folder, variant)


def render_host(kernel: KernelSpec) -> Source:
    return render_kernel("host", kernel)


def replaced(kernel: KernelSpec, **parameters: Parameter) -> KernelSpec:
    return spec(kernel.template, **{**dict(kernel.parameters), **parameters})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernels' headers."""
    return write_headers("host", tmp_path_factory.mktemp("warnings"))


def parse_warned(sources: Iterable[Source], folder: Path, variant: CodeVariant = HOST.variants[0]) -> None:
    toolchain = find_host_toolchain()
    parse_alone(toolchain.compiler, toolchain.flags(variant), sources, folder)


def progress(_done: int, _total: int) -> None:
    """Nobody looks."""


def one_level() -> Target:
    return replace(HOST, variants=HOST.variants[-1:])


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    source = Source("bad.c", "int f(int x) { if (x = 1) return 2; return 0; }\n")
    with pytest.raises(ToolchainError, match="using the result of an assignment as a condition") as caught:
        build_variants((source,), one_level(), find_toolchain("auto", HOST), BuildCache(tmp_path), progress, 1)
    assert "\n" not in str(caught.value)


def test_any_change_of_a_header_or_a_source_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, toolchain = BuildCache(tmp_path), find_toolchain("auto", HOST)
    source = rendered("quantize")

    def keys(*sources: Source) -> set[str]:
        build_variants(sources, one_level(), toolchain, cache, progress, 1)
        return {path.parent.name for path in (tmp_path / "object").glob("*/*/*")}

    first = keys(source)
    assert len(first) == 1
    assert keys(source) == first
    assert len(keys(source, rendered("gate"))) == 2
    assert len(keys(replace(source, text=f"{source.text}\n"))) == 3
    headers = dict(kernel_headers("host"))
    # Also one that the kernel does not include: simple, and never wrong.
    for name, text in (("vector.h", f"{headers['vector.h']}\n"), ("sample.h", f"{headers['sample.h']}\n"), ("a.h", "")):
        before = keys(source)
        monkeypatch.setattr(build_module, "kernel_headers", lambda _backend, h={**headers, name: text}: h)
        assert len(keys(source)) == len(before) + 1, name
        monkeypatch.setattr(build_module, "kernel_headers", kernel_headers)


def test_flags_and_toolchain_are_of_the_key_too(tmp_path: Path) -> None:
    cache, toolchain, source = BuildCache(tmp_path), find_toolchain("auto", HOST), rendered("quantize")
    target = one_level()
    flagged = replace(target, variants=(replace(target.variants[0], flags=("-DNOTHING=1",)),))
    older = replace(toolchain, version="ziglang 0.0.1")  # type: ignore[type-var]
    for number, (where, which) in enumerate(((target, toolchain), (flagged, toolchain), (target, older)), 1):
        build_variants((source,), where, which, cache, progress, 1)
        assert len(list((tmp_path / "object").glob("*/*/*"))) == number


if __name__ == "__main__":
    for name in (*KERNELS, "program"):
        (DATA / f"golden_{name}.c").write_text(rendered(name).text, "utf-8")
