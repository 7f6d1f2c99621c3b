"""The plan: buffers that never alias while live, symbols that are unique, and the same plan every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.artifacts.arguments import BufferRef, KvRef, TensorRef
from rocmforge.artifacts.layout import MAX_ARGUMENTS, BufferEntry
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.buffers import assign_buffers
from rocmforge.compiler.graph import Graph
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.lower_host import Q8_BLOCKS
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.passes import quantize_by_superblocks, run_passes
from rocmforge.compiler.plan import KernelSpec, Plan, float_literal
from rocmforge.compiler.target import TARGETS, Target
from rocmforge.tests.kernels.kernel_harness import Q8_BLOCK, Q8_SUPERBLOCK
from rocmforge.tests.oracles.graph_interpreter import BASE, Interpreter, make_weights, random_values
from rocmforge.tests.support.graphs import CONFIGS, TYPES

HOST = TARGETS["host"]
Q8_BYTES = {"q8": (32, Q8_BLOCK.itemsize), "q8_super": (256, Q8_SUPERBLOCK.itemsize)}


def passed(config: ModelConfig = BASE, types: Mapping[str, str] | None = None) -> Graph:
    return run_passes(build_graph(config, make_weights(config, types)))


def plan_of(config: ModelConfig = BASE, types: Mapping[str, str] | None = None) -> Plan:
    return make_plan(passed(config, types), HOST, config.max_seq_len)


def check_buffers(graph: Graph, config: ModelConfig) -> tuple[int, int]:
    """Run the graph with each value in its buffer: one that is written while another is live there changes the result.

    Returns:
        how many values there are, and how many buffers.
    """
    made = assign_buffers(graph, HOST, Q8_BLOCKS)
    buffers, buffer_of = made.entries, made.of
    numbers, ids = random_values(graph.weights), [7, 7, 2]
    expected = Interpreter(graph, numbers, ids).run()
    np.testing.assert_array_equal(Interpreter(graph, numbers, ids, buffer_of).run(), expected)
    by_name = {buffer.name: buffer for buffer in buffers}
    assert len(by_name) == len(buffers)
    for name, value in graph.values.items():
        rows = HOST.max_batch_tokens if value.rows == "T" else HOST.max_sequences
        columns, n_bytes = Q8_BYTES.get(value.dtype, (1, 4))
        row_bytes = value.columns // columns * n_bytes
        assert by_name[buffer_of[name]].n_bytes(HOST.max_batch_tokens) >= rows * row_bytes, name
    return len(graph.values), len(buffers)


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_buffers_never_alias_while_live(config: ModelConfig, types: dict[str, str]) -> None:
    deep = replace(config, num_layers=3)
    values, buffers = check_buffers(passed(deep, types), deep)
    assert buffers < values  # they are taken again
    more = check_buffers(passed(replace(config, num_layers=6), types), replace(config, num_layers=6))
    assert more[1] == buffers  # and depth costs none


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K"])
def test_buffers_of_superblocks(kind: str) -> None:
    wide = replace(BASE, hidden_size=256, intermediate_size=512, num_heads=8)
    graph = quantize_by_superblocks(passed(wide, {"attention_output": kind, "ffn_down": kind}))
    assert any(value.dtype == "q8_super" for value in graph.values.values())
    check_buffers(graph, wide)


def test_buffers_of_a_graph_without_passes() -> None:
    """Adds that are nodes of their own: both operands end at once."""
    check_buffers(build_graph(BASE, make_weights(BASE)), BASE)


def test_the_buffer_check_finds_an_alias() -> None:
    graph = passed(BASE, TYPES["floats"])
    numbers = random_values(graph.weights)
    buffer_of = assign_buffers(graph, HOST, Q8_BLOCKS).of
    # The residual stream is live throughout, and as wide as what a norm writes.
    bad = {**buffer_of, "layers.0.attention_normed": buffer_of["embedded"]}
    good, other = (Interpreter(graph, numbers, [1, 2], storage).run() for storage in (buffer_of, bad))
    assert not np.allclose(good, other)


@pytest.mark.parametrize("target", [HOST, TARGETS["gfx1100"]], ids=["host", "gfx1100"])
@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
def test_nothing_overwrites_what_the_last_layer_leaves(types: dict[str, str], target: Target) -> None:
    plan = make_plan(passed(BASE, types), target, BASE.max_seq_len)
    norm = plan.final_norm
    assert norm is not None
    readers = [i for i, launch in enumerate(plan.launches) if TensorRef(norm.tensor) in launch.arguments]
    assert len(readers) == 1
    assert plan.launches[readers[0]].arguments[0] == BufferRef(norm.buffer)
    after = [argument for launch in plan.launches[readers[0] + 1 :] for argument in launch.arguments]
    assert after
    assert BufferRef(norm.buffer) not in after
    assert norm.epsilon == BASE.norm_epsilon
    buffer = next(buffer for buffer in plan.buffers if buffer.name == norm.buffer)
    assert (buffer.dtype, buffer.elements_per_token) == ("float32", BASE.hidden_size)


def test_logits_of_one_step_fit_their_buffers() -> None:
    plan = plan_of()
    logits = plan.sampler.logits
    assert plan.sampler.launch == len(plan.launches) - 1
    assert plan.launches[-1].arguments[0] == BufferRef(logits)
    assert next(b for b in plan.buffers if b.name == logits) == BufferEntry(logits, "float32", 0, 64 * BASE.vocab_size)


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_plan_is_whole_and_in_order(config: ModelConfig, types: dict[str, str]) -> None:
    plan = plan_of(config, types)
    symbols = [spec.symbol for spec in plan.kernels]
    assert symbols == sorted(set(symbols))
    assert {launch.kernel for launch in plan.launches} == set(symbols)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*_[0-9a-f]{8}", symbol) for symbol in symbols)
    assert all(spec.parameters == tuple(sorted(spec.parameters)) for spec in plan.kernels)
    arguments = [argument for launch in plan.launches for argument in launch.arguments]
    assert all(len(launch.arguments) <= MAX_ARGUMENTS for launch in plan.launches)
    tensors, buffers = {tensor.name for tensor in plan.tensors}, {buffer.name for buffer in plan.buffers}
    assert {a.name for a in arguments if isinstance(a, TensorRef)} == tensors
    assert {a.name for a in arguments if isinstance(a, BufferRef)} == buffers
    layers = {a.layer for a in arguments if isinstance(a, KvRef)}
    assert layers == set(range(config.num_layers)) == set(range(plan.kv.num_layers))
    # Every weight is packed, once, unless the embedding serves twice.
    sources = [source for tensor in plan.tensors for source in tensor.sources]
    assert sorted(sources) == sorted(make_weights(config, types))
    assert (plan.kv.num_kv_heads, plan.kv.head_dim) == (config.num_kv_heads, config.head_dim)


def test_layers_of_equal_shapes_share_kernels() -> None:
    assert plan_of(replace(BASE, num_layers=5)).kernels == plan_of().kernels
    assert [tensor.name for tensor in plan_of().tensors][:4] == [
        "token_embedding@rows16_q4_1",
        "layers.0.attention_norm@f32",
        "layers.0.attention_q+attention_k+attention_v@rows16_q4_1",
        "rope_table@rope_table",
    ]


def test_what_a_kernel_is_specialised_to_decides_its_symbol() -> None:
    spec = KernelSpec("matmul", (("columns", 576), ("has_bias", False), ("rows", 960), ("weight_type", "Q4_1")))
    # By `sha256sum`: another digest would be another symbol, and so another bundle, for the same code.
    assert spec.digest == "79952833abfb3777"
    assert spec.symbol == "matmul_q4_1_960x576_79952833"
    others = [
        KernelSpec("other", spec.parameters),
        KernelSpec("matmul", (*spec.parameters[:1], ("has_bias", True), *spec.parameters[2:])),
        KernelSpec("matmul", (*spec.parameters[:1], ("has_bias", 0), *spec.parameters[2:])),
        KernelSpec("matmul", (*spec.parameters[:3], ("weight_type", "Q4_0"))),
        KernelSpec("matmul", (*spec.parameters[:1], *spec.parameters[2:])),
    ]
    assert len({one.symbol for one in (spec, *others)}) == 1 + len(others)


@pytest.mark.parametrize("arch", ["host", "gfx1100", "gfx942"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_kernels_are_given_what_the_model_says(config: ModelConfig, arch: str) -> None:
    config = replace(config, norm_epsilon=3e-6)
    kv_dtype = "f16" if config.head_dim % 32 else "q8_0"
    plan = make_plan(passed(config), TARGETS[arch], config.max_seq_len, kv_dtype=kv_dtype)
    given = [(spec.template, dict(spec.parameters)) for spec in plan.kernels]
    heads: dict[str, object] = {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
    }
    heads["kv_q8_0"] = kv_dtype == "q8_0"
    rope: dict[str, object] = {
        **{"rope_dim": config.rope_dim, "interleaved": config.rope_style == "interleaved"},
        **{"qk_norm": config.architecture == "qwen3", "epsilon": "3.000000000e-06f"},
    }
    scale = {16: "2.500000000e-01f", 32: "1.767766953e-01f"}[config.head_dim]
    wanted: dict[str, dict[str, object]] = {
        "rope_kv": rope | heads,
        "attention": {"scale": scale, **heads},
        "norm": {"epsilon": rope["epsilon"]},
    }
    for kind, expected in wanted.items():
        found = [parameters for template, parameters in given if template.startswith(kind)]
        assert found
        assert all(expected.items() <= parameters.items() for parameters in found), kind


@pytest.mark.parametrize("value", [1e-5, 1e-12, 80**-0.5, 1 / 3, 1.0, np.float32(1e-6)])
def test_float_literals_read_back_to_the_same_float32(value: float) -> None:
    literal = float_literal(value)
    assert re.fullmatch(r"[0-9]\.[0-9]{9}e[+-][0-9]{2}f", literal)
    assert np.float32(literal.removesuffix("f")) == np.float32(value)


_SCRIPT = """
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.buffers import assign_buffers
from rocmforge.tests.unit.compiler import test_plan as t
whole = build_graph(t.BASE, t.make_weights(t.BASE))
print(t.plan_of(t.CONFIGS["qwen3"], t.TYPES["all-apart"]), assign_buffers(whole, t.HOST, t.Q8_BLOCKS))
"""


@pytest.mark.slow
def test_the_plan_does_not_depend_on_hashes() -> None:
    plans = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in range(3)
    }
    assert len(plans) == 1
    assert b"matmul_q4_k" in plans.pop()


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_outputs_alone_are_made_behind_the_last_attention_and_nowhere_else(
    config: ModelConfig, types: dict[str, str]
) -> None:
    """What reads other tokens, or what later steps read, needs what all tokens come to."""
    plan = plan_of(replace(config, num_layers=3), types)
    parameters = {kernel.symbol: (kernel.template, dict(kernel.parameters)) for kernel in plan.kernels}
    launches = [parameters[launch.kernel] for launch in plan.launches]
    ends = [index for index, (name, _) in enumerate(launches) if name in ("attention", "scan", "short_conv", "rope_kv")]
    at_outputs = [index for index, (_, own) in enumerate(launches) if own.get("at_output_rows")]
    assert at_outputs
    assert min(at_outputs) == ends[-1]  # the last attention itself
    assert launches[ends[-1]][0] == "attention"
    rows = ("matmul", "gate_up", "gate", "norm", "quantize", "activate", "elementwise")
    behind = [own for name, own in launches[ends[-1] :] if name in rows]
    assert all(own.get("at_output_rows", False) != own.get("at_logits_rows", False) for own in behind)
