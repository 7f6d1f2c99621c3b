"""Whole plans as they are recorded: what a kernel is specialised to, its grid and its arguments decide the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from rocmforge.artifacts.arguments import argument_text
from rocmforge.artifacts.errors import UsageError
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.graph import Graph
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.lower_hip import num_slices
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.passes import run_passes
from rocmforge.compiler.plan import Plan
from rocmforge.compiler.target import TARGETS
from rocmforge.compiler.tuning import Tuning
from rocmforge.tests.oracles.graph_interpreter import BASE, make_weights
from rocmforge.tests.support.graphs import CONFIGS, TYPES
from rocmforge.tools.generate.gpu_code import SHAPES, shape_graph

DATA = Path(__file__).parents[2] / "data"
# Biases and norms of heads, groups of two heads, types that part what could be one matrix.
MIXED = replace(CONFIGS["qwen2"], num_layers=1, num_heads=12, num_kv_heads=4, name="norms", rope_dim=16)


def small(config: ModelConfig, types: str) -> Graph:
    return run_passes(build_graph(config, make_weights(config, TYPES[types])))


def shape_plan(name: str, kind: str, arch: str) -> Plan:
    return make_plan(shape_graph(SHAPES[name], kind), TARGETS[arch], SHAPES[name].max_seq_len)


def plans() -> Iterator[tuple[str, Plan]]:
    """Of each back end and each kind of GPU: waves of 32 and 64 lanes, with and without matrix instructions."""
    mixed, one = small(MIXED, "float-among-quantized"), replace(BASE, num_layers=1)
    yield "host", make_plan(mixed, TARGETS["host"], 16, kv_dtype="q8_0")
    yield "gfx1100", make_plan(mixed, TARGETS["gfx1100"], 8193, kv_dtype="q8_0")
    yield "gfx942", make_plan(small(BASE, "all-apart"), TARGETS["gfx942"], 8192)
    tuning = Tuning(block_size=64, use_lds=True, lds_size=4096, tile_k=64, tile_n=64)
    yield "gfx1201_tuned", make_plan(small(one, "one-type"), TARGETS["gfx1201"], 8191, tuning)
    yield "gfx906_8b", shape_plan("llama-8b", "Q4_K", "gfx906")
    yield "gfx1030_8b", shape_plan("llama-8b", "Q4_0", "gfx1030")
    yield "gfx1100_135m", shape_plan("smollm2-135m", "Q5_1", "gfx1100")


def lines(plan: Plan) -> Iterator[str]:
    """All that a plan holds, a line each."""
    for kernel in plan.kernels:
        yield f"{kernel.symbol}: {kernel.template} " + " ".join(f"{name}={value}" for name, value in kernel.parameters)
    yield from (
        f"{entry.kernel} ({', '.join(map(argument_text, entry.arguments))}) {entry.grid and astuple(entry.grid)}"
        for entry in plan.launches
    )
    yield from map(str, (*plan.buffers, *plan.tensors, plan.kv, plan.final_norm))


PLANS = dict(plans())


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_the_recorded_one(name: str) -> None:
    """After a change that is meant: `python -m rocmforge.tests.unit.compiler.test_lower` records anew."""
    assert list(lines(PLANS[name])) == (DATA / f"plan_{name}.txt").read_text("utf-8").splitlines()


def texts() -> Iterator[tuple[str, str]]:
    """A graph as it is built, and after all passes."""
    weights = make_weights(MIXED, TYPES["float-among-quantized"])
    yield "built", build_graph(MIXED, weights).text()
    yield "passed", run_passes(build_graph(MIXED, weights)).text()


TEXTS = dict(texts())


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_graph_is_the_recorded_one(name: str) -> None:
    assert TEXTS[name] == (DATA / f"graph_{name}.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "rows, columns, unit, most, slices",
    [
        (32, 64, 64, 16, 1),
        (32, 128, 64, 16, 2),
        (32, 192, 64, 16, 2),
        (32, 193, 64, 16, 4),
        (32, 1024, 64, 16, 16),
        (32, 4096, 64, 16, 16),
        (32, 4096, 64, 9, 16),
        (32, 4096, 64, 8, 8),
        (32, 4096, 64, 1, 1),
        (32, 4096, 64, 0, 1),
        (32, 512, 256, 16, 2),
        (32 * 1023, 4096, 64, 16, 4),
        (32 * 1023 + 1, 4096, 64, 16, 2),
        (32 * 2047, 4096, 64, 16, 2),
        (32 * 2048, 4096, 64, 16, 1),
    ],
)
def test_waves_share_columns_where_there_are_few_rows(
    rows: int, columns: int, unit: int, most: int, slices: int
) -> None:
    assert num_slices(rows, columns, unit, most) == slices


@pytest.mark.parametrize(
    "head_dim, host, gpu", [(8, 16, 8), (12, 16, 16), (248, 256, 248), (256, 256, 256), (300, 304, 304)]
)
def test_heads_are_filled_up_as_the_kernels_have_them(head_dim: int, host: int, gpu: int) -> None:
    graph = small(replace(BASE, head_dim=head_dim, rope_dim=8, num_layers=1), "floats")
    assert make_plan(graph, TARGETS["host"], 16).kv.head_dim == host
    assert make_plan(graph, TARGETS["gfx1100"], 16).kv.head_dim == gpu


def test_float_rows_of_gpus_have_any_number_of_columns() -> None:
    for hidden in (60, 61):
        config = replace(CONFIGS["no-whole-blocks"], hidden_size=hidden)
        plan = make_plan(small(config, "floats"), TARGETS["gfx1100"], 16)
        assert any(tensor.shape[1:] == (hidden,) for tensor in plan.tensors)


def test_a_cache_of_groups_takes_heads_of_whole_groups() -> None:
    config = CONFIGS["head-of-half-a-block"]
    with pytest.raises(UsageError) as caught:
        make_plan(small(config, "one-type"), TARGETS["host"], 16, kv_dtype="q8_0")
    expected = "--kv-type q8_0: expected heads of a multiple of 32 elements, found heads of 16"
    assert str(caught.value) == expected


if __name__ == "__main__":
    for case, whole in PLANS.items():
        (DATA / f"plan_{case}.txt").write_text("".join(f"{line}\n" for line in lines(whole)), "utf-8")
    for case, text in TEXTS.items():
        (DATA / f"graph_{case}.txt").write_text(text, "utf-8")
