"""The graph and its passes: defects are named, each pass does what it says, and none changes what is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.graph import Graph, GraphError, Node, Value, Weight
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.passes import (
    PASSES,
    fuse_gate_up,
    fuse_residuals,
    merge_linears,
    quantize_activations,
    quantize_by_superblocks,
    run_passes,
)
from rocmforge.compiler.verify import verify
from rocmforge.tests.oracles.graph_interpreter import BASE, Interpreter, make_weights, random_values
from rocmforge.tests.support.graphs import CONFIGS, TYPES


def graph_of(config: ModelConfig = BASE, types: Mapping[str, str] | None = None) -> Graph:
    return build_graph(config, make_weights(config, types))


def ops(graph: Graph, layer: int | None = None) -> list[str]:
    """Operations in order, of one layer's values alone where one is given."""
    prefix = "" if layer is None else f"layers.{layer}."
    return [node.op for node in graph.nodes if node.output.startswith(prefix)]


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_passes_leave_what_is_computed_as_it_was(config: ModelConfig, types: dict[str, str]) -> None:
    graph = graph_of(config, types)
    numbers = random_values(graph.weights)
    ids = [3, 1, 4, 1, 5, 9]
    expected = Interpreter(graph, numbers, ids).run()
    assert expected.std() > 0.1
    for step in PASSES:
        graph = verify(step(graph))
        # The same float64 sums in the same order, but for matrices that were stacked.
        np.testing.assert_allclose(Interpreter(graph, numbers, ids).run(), expected, rtol=1e-11, atol=1e-11)
    for node in graph.nodes:
        if node.op in {"linear", "gate_up"}:
            is_float = graph.weights[node.weights[0]].ggml_type in {"F32", "F16", "BF16"}
            assert (graph.values[node.inputs[0]].dtype == "float32") == is_float, node
            kinds = {graph.weights[name].ggml_type for name in node.weights if len(graph.weights[name].shape) == 2}
            assert len(kinds) == 1, node


def test_the_graph_of_a_layer_after_all_passes() -> None:
    assert ops(run_passes(graph_of()), 0) == ["norm", "linear", "rope_kv", "attention", "norm", "gate_up"]
    text = run_passes(graph_of()).text()
    assert "layers.0.attention_normed.q8[T, 64]q8 = norm(embedded) layers.0.attention_norm:F32 epsilon=1e-05\n" in text


def test_merge_linears_stacks_neighbours_of_one_type_alone() -> None:
    def stacks(types: Mapping[str, str]) -> list[tuple[str, ...]]:
        graph = merge_linears(graph_of(BASE, types))
        nodes = [node for node in graph.nodes if node.op == "linear" and node.output == "layers.0.qkv"]
        offsets = [node.attributes["out_offset"] for node in nodes]
        sizes = [sum(graph.weights[name].shape[0] for name in node.weights) for node in nodes]
        assert offsets == [sum(sizes[:index]) for index in range(len(sizes))]
        return [tuple(name.removeprefix("layers.0.attention_") for name in node.weights) for node in nodes]

    assert stacks({}) == [("q", "k", "v")]
    assert stacks({"attention_v": "Q6_K"}) == [("q", "k"), ("v",)]
    assert stacks({"attention_q": "Q6_K"}) == [("q",), ("k", "v")]
    assert stacks({"attention_k": "F16"}) == [("q",), ("k",), ("v",)]


def test_merge_linears_keeps_biases_in_order_and_apart() -> None:
    config = replace(BASE, name="biases")
    weights = make_weights(config)
    (merged,) = [n for n in merge_linears(build_graph(config, weights)).nodes if n.output == "layers.0.qkv"]
    assert [name.removeprefix("layers.0.attention_") for name in merged.weights] == [
        "q", "q_bias", "k", "k_bias", "v", "v_bias",
    ]  # fmt: skip
    del weights["layers.0.attention_k_bias"]
    nodes = [n for n in merge_linears(build_graph(config, weights)).nodes if n.output == "layers.0.qkv"]
    assert len(nodes) == 3


def test_fuse_residuals_adds_in_place() -> None:
    graph = fuse_residuals(merge_linears(graph_of()))
    assert "add" not in ops(graph)
    adding = [node for node in graph.nodes if len(node.inputs) == 2]
    assert [node.weights[0] for node in adding] == [
        f"layers.{layer}.{name}" for layer in range(2) for name in ("attention_output", "ffn_down")
    ]
    assert all(node.output == node.inputs[1] == "embedded" for node in adding)
    assert not any("residual" in name for name in graph.values)


@pytest.mark.parametrize(
    "config, types, fused",
    [
        (BASE, {}, True),
        (BASE, {"ffn_gate": "F16", "ffn_up": "F16"}, True),
        (BASE, {"ffn_up": "Q8_0"}, False),
        (replace(BASE, intermediate_size=72), {"ffn_gate": "F16", "ffn_up": "F16", "ffn_down": "F16"}, False),
        (replace(BASE, intermediate_size=48), {"ffn_down": "F16"}, False),
    ],
)
def test_fuse_gate_up_where_rows_are_whole_blocks_of_one_type(
    config: ModelConfig, types: dict[str, str], fused: bool
) -> None:
    graph = verify(fuse_gate_up(merge_linears(graph_of(config, types))))
    assert ("gate_up" in ops(graph), "gate" in ops(graph)) == (fused, not fused)
    assert ("layers.0.gate_up" in graph.values) != fused


def test_fuse_gate_up_takes_no_bias_for_a_matrix() -> None:
    weights = {
        "w": Weight("w", (64, 32), "F16"),
        "bias": Weight("bias", (64,), "F32"),
        "token_embedding": Weight("token_embedding", (9, 32), "F16"),
    }
    values = {"x": Value("x", "T", 32), "y": Value("y", "T", 64), "z": Value("z", "T", 32)}
    nodes = (
        Node("embedding", (), "x", ("token_embedding",)),
        Node("linear", ("x",), "y", ("w", "bias"), {"out_offset": 0}),
        Node("gate", ("y",), "z", (), {"activation": "silu"}),
    )
    graph = Graph(nodes, values, weights)
    assert fuse_gate_up(graph) == graph


def test_quantize_activations_folds_into_producers_that_can() -> None:
    def quantized(config: ModelConfig, types: Mapping[str, str] | None = None) -> tuple[list[str], set[str]]:
        graph = run_passes(graph_of(config, types))
        own = [node.inputs[0] for node in graph.nodes if node.op == "quantize" and ".1." not in node.inputs[0]]
        return own, {node.op for node in graph.nodes if graph.values[node.output].dtype == "q8"} - {"quantize"}

    assert quantized(BASE) == ([], {"norm", "attention", "gate_up"})
    # A head of half a block cannot write blocks.
    assert quantized(CONFIGS["head-of-half-a-block"]) == (["layers.0.attended"], {"norm", "gate_up"})
    # Nor can a producer that someone else reads as floats, and what SwiGLU made of two types.
    assert quantized(BASE, {"attention_v": "F16"})[0] == ["layers.0.attention_normed"]
    assert quantized(BASE, {"ffn_up": "Q8_0"})[0] == ["layers.0.activated"]
    assert quantized(BASE, TYPES["floats"]) == ([], set())


def test_quantize_is_done_once_for_all_readers() -> None:
    graph = run_passes(graph_of(BASE, {"attention_q": "Q4_K", "attention_k": "Q5_K", "attention_v": "F16"}))
    quantizing = [node for node in graph.nodes if node.output == "layers.0.attention_normed.q8"]
    assert len(quantizing) == 1
    assert len(graph.consumers("layers.0.attention_normed.q8")) == 2


# Rows of one superblock and of two.
WIDE = replace(BASE, hidden_size=256, intermediate_size=512, num_heads=8)
K_TYPES = dict.fromkeys(("attention_output", "ffn_down"), "Q4_K")


def int8_values(graph: Graph) -> dict[str, str]:
    """Of values of the first layer that are int8: by name what writes them."""
    nodes = {node.output: node for node in graph.nodes if node.output.startswith("layers.0.")}
    return {name: node.op for name, node in nodes.items() if graph.values[name].is_int8}


def test_the_host_quantizes_to_superblocks_what_is_written_so_for_nothing() -> None:
    graph = quantize_by_superblocks(run_passes(graph_of(WIDE)))
    assert int8_values(graph) == {
        "layers.0.attention_normed.q8_super": "norm",
        "layers.0.attended.q8": "attention",
        "layers.0.ffn_normed.q8_super": "norm",
        "layers.0.activated.q8": "gate_up",
    }


def test_the_host_quantizes_to_superblocks_what_weights_of_superblocks_read() -> None:
    graph = quantize_by_superblocks(run_passes(graph_of(WIDE, K_TYPES)))
    assert int8_values(graph) == {
        "layers.0.attention_normed.q8_super": "norm",
        "layers.0.attended.q8_super": "quantize",
        "layers.0.ffn_normed.q8_super": "norm",
        "layers.0.activated.q8_super": "quantize",
    }
    assert graph.values["layers.0.activated"].dtype == "float32"


def test_a_value_of_two_readers_comes_as_each_reads_it() -> None:
    nodes = (
        Node("embedding", (), "x", ("token_embedding",)),
        Node("gate_up", ("x",), "g", ("gate", "up"), {"activation": "silu"}),
        Node("linear", ("g",), "y", ("plain",), {"out_offset": 0}),
        Node("linear", ("g",), "z", ("k",), {"out_offset": 0}),
    )
    shapes = {"gate": "F16", "up": "F16", "plain": "Q8_0", "k": "Q6_K"}
    weights = {name: Weight(name, (256, 256), kind) for name, kind in shapes.items()}
    weights["token_embedding"] = Weight("token_embedding", (9, 256), "F16")
    values = {name: Value(name, "T", 256) for name in ("x", "g", "y", "z")}
    graph = quantize_by_superblocks(quantize_activations(Graph(nodes, values, weights)))
    assert [(node.op, node.output) for node in graph.nodes[2:]] == [
        ("quantize", "g.q8"),
        ("linear", "y"),
        ("quantize", "g.q8_super"),
        ("linear", "z"),
    ]


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rows_of_no_whole_superblocks_are_quantized_as_they_were(config: ModelConfig, types: dict[str, str]) -> None:
    graph = run_passes(graph_of(config, types))
    assert quantize_by_superblocks(graph) == graph


@pytest.mark.parametrize("types", [{}, K_TYPES, TYPES["all-apart"], TYPES["float-among-quantized"]])
def test_superblocks_leave_what_is_computed_as_it_was(types: dict[str, str]) -> None:
    graph = run_passes(graph_of(WIDE, types))
    numbers, ids = random_values(graph.weights), [3, 1, 4]
    other = quantize_by_superblocks(graph)
    assert any(value.dtype == "q8_super" for value in other.values.values())
    assert np.array_equal(Interpreter(other, numbers, ids).run(), Interpreter(graph, numbers, ids).run())


def broken(change: str) -> Graph:
    graph = graph_of()
    nodes, values, weights = list(graph.nodes), dict(graph.values), dict(graph.weights)
    if change == "order":
        nodes[1], nodes[2] = nodes[2], nodes[1]
    elif change == "value":
        del values["layers.0.qkv"]
    elif change == "weight":
        del weights["layers.1.ffn_down"]
    elif change == "columns":
        weights["layers.0.attention_k"] = replace(weights["layers.0.attention_k"], shape=(64, 65))
    return Graph(tuple(nodes), values, weights)


@pytest.mark.parametrize(
    "change, message",
    [
        ("order", r"node 1 \(linear -> layers.0.qkv\): reads layers.0.attention_normed before it is written"),
        ("value", r"node 2 \(linear -> layers.0.qkv\): value layers.0.qkv is not declared"),
        ("weight", r"node \d+ \(linear -> layers.1.ffn_out\): weight layers.1.ffn_down is not declared"),
        ("columns", r"node 3 \(linear -> layers.0.qkv\): weight and input differ in columns"),
    ],
)
def test_verify_names_the_bad_node(change: str, message: str) -> None:
    with pytest.raises(GraphError, match=f"^{message}$"):
        verify(broken(change))


def test_passes_return_new_graphs() -> None:
    graph = graph_of()
    before = graph.text()
    for step in (merge_linears, fuse_residuals, fuse_gate_up, quantize_activations, run_passes):
        step(graph)
        assert graph.text() == before


HAND_WEIGHTS = {
    "token_embedding": Weight("token_embedding", (9, 32), "F16"),
    "w": Weight("w", (32, 32), "Q8_0"),
    "half": Weight("half", (16, 32), "Q8_0"),
}
LINEAR: dict[str, int] = {"out_offset": 0}
# Nodes behind the embedding `x`, and how many additions stay nodes of their own.
HAND_MADE: dict[str, tuple[tuple[Node, ...], int]] = {
    "either order": (
        (Node("linear", ("x",), "a", ("w",), LINEAR), Node("add", ("a", "x"), "y")),
        0,
    ),
    "what was added to is read later": (
        (
            Node("linear", ("x",), "a", ("w",), LINEAR),
            Node("add", ("x", "a"), "b"),
            Node("mul", ("b", "x"), "y"),
        ),
        1,
    ),
    "the product is read later": (
        (
            Node("linear", ("x",), "a", ("w",), LINEAR),
            Node("add", ("x", "a"), "b"),
            Node("mul", ("b", "a"), "y"),
        ),
        1,
    ),
    "products side by side": (
        (
            Node("linear", ("x",), "a", ("half",), LINEAR),
            Node("linear", ("x",), "a", ("half",), {"out_offset": 16}),
            Node("add", ("x", "a"), "y"),
        ),
        1,
    ),
    "twice the product": ((Node("linear", ("x",), "a", ("w",), LINEAR), Node("add", ("a", "a"), "y")), 1),
    "something between": (
        (
            Node("linear", ("x",), "a", ("w",), LINEAR),
            Node("activate", ("a",), "b", (), {"activation": "relu"}),
            Node("add", ("x", "b"), "y"),
        ),
        1,
    ),
    "read again as blocks": (
        (
            Node("linear", ("x",), "a", ("w",), LINEAR),
            Node("add", ("x", "a"), "b"),
            Node("linear", ("b",), "y", ("w",), LINEAR),
        ),
        0,
    ),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_additions_are_taken_in_only_where_nobody_sees_it(case: str) -> None:
    nodes, left = HAND_MADE[case]
    embedding = Node("embedding", (), "x", ("token_embedding",))
    values = {name: Value(name, "T", 32) for name in "xaby"} | {"s": Value("s", "R", 32, "int32")}
    graph = verify(Graph((embedding, *nodes, Node("sample", ("y",), "s")), values, HAND_WEIGHTS))
    numbers = random_values(HAND_WEIGHTS)
    expected = Interpreter(graph, numbers, [3, 1, 4]).run()
    fused = fuse_residuals(graph)
    assert [node.op for node in fused.nodes].count("add") == left
    for passed in (fused, run_passes(graph)):
        np.testing.assert_allclose(Interpreter(passed, numbers, [3, 1, 4]).run(), expected, rtol=1e-11, atol=1e-11)
