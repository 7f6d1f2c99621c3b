"""Operations of the graph: what they mean, and what verification says of a node that is not as its operation has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.graph import Graph, GraphError, Node, Value, Weight
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.model_tensors import weight_tensors
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.verify import verify
from rocmforge.compiler.weights import rope_table
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tools.generate.fixtures import write_model

WEIGHTS = {"w": Weight("w", (64, 64), "F32"), "v": Weight("v", (64,), "F32")}
EMBEDDING = Node("embedding", (), "x", ("w",))
NORM = Node("norm", ("x",), "y", ("v",), {"epsilon": 1e-5})
HEADS = "head_dim: int, layer: int, num_heads: int, num_kv_heads: int"


@pytest.mark.parametrize(
    "node, problem",
    [
        (replace(NORM, op="normal"), f"expected an operation of {', '.join(OPERATIONS)}"),
        (replace(NORM, inputs=("x", "x")), "expected 1 to 1 inputs, found 2"),
        (replace(NORM, weights=("v",) * 3), "expected 0 to 2 weights, found 3"),
        (replace(NORM, attributes={}), "expected attributes epsilon: float, found none"),
        (replace(NORM, attributes={"epsilon": 1}), "expected attributes epsilon: float, found epsilon: int"),
        (Node("sample", ("x",), "y", (), {"seed": True}), "expected attributes none, found seed: bool"),
        (Node("attention", ("x",), "y"), f"expected attributes {HEADS}, scale: float, found none"),
        (Node("linear", ("x",), "y", ("w",) * 13, {"out_offset": 0}), "expected 1 to 12 weights, found 13"),
    ],
)
def test_a_node_is_as_its_operation_says(node: Node, problem: str) -> None:
    graph = Graph((EMBEDDING, NORM), {name: Value(name, "T", 64) for name in "xy"}, WEIGHTS)
    assert verify(graph) is graph
    with pytest.raises(GraphError) as caught:
        verify(replace(graph, nodes=(EMBEDDING, node)))
    assert str(caught.value) == f"node 1 ({node.op} -> y): {problem}"


def test_operations_are_listed_by_their_names() -> None:
    assert list(OPERATIONS) == sorted(OPERATIONS)
    assert all(operation.name == name for name, operation in OPERATIONS.items())
    in_place = {name for name, operation in OPERATIONS.items() if operation.in_place}
    writers = {name for name, operation in OPERATIONS.items() if operation.writes_kv}
    assert (in_place, writers) == ({"input_rows", "logits_map", "rope_kv"}, {"rope_kv"})
    # Whose rows must all be there: of an operation that is not named here they need not be.
    mixing = {name for name, operation in OPERATIONS.items() if operation.mixes_tokens or operation.has_state}
    assert mixing == {"merge_rows", "scan", "short_conv"}


@pytest.mark.parametrize(
    "architecture, options", [("llama", {"rope_factors": True}), ("qwen2", {"tie": False}), ("qwen3", {"head_dim": 32})]
)
def test_what_operations_mean_is_the_model(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The graph before and after its passes in NumPy, against a forward pass that shares no code with the compiler."""
    path = write_model(tmp_path / "model.gguf", architecture, **options)
    oracle, model = ReferenceModel(path), read_model(CompileOptions(path, path), Silent())
    infos = weight_tensors(model.gguf, model.config)
    numbers = {role: np.asarray(oracle.weight(info.name), np.float64) for role, info in infos.items()}
    factors = numbers["rope_factors"].astype(np.float32) if "rope_factors" in numbers else None
    numbers["rope_table"] = rope_table(model.config, factors, 8).astype(np.float64)
    ids = [1, 5, 2, 9, 9, 3]
    expected = oracle.forward(ids)
    bound = 1e-5 * np.abs(expected).max()  # of float32 sums over some hundred elements a layer
    for graph in (build_graph(model.config, model.weights), model.graph):
        assert np.abs(Interpreter(graph, numbers, ids).run() - expected).max() < bound
