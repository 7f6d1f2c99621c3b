"""Runs a graph in NumPy float64, node by node as its operations say: what passes must leave as it was.

Int8 blocks are taken for the numbers that they stand for: rounding is not of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.graph import Graph, Node, Weight
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.position_tables import RopeScaling

Float64 = npt.NDArray[np.float64]
BASE = ModelConfig(
    architecture="llama",
    name="test",
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=50,
    max_seq_len=16,
    rope_theta=10000.0,
    norm_epsilon=1e-5,
    rope_style="interleaved",
    rope_dim=32,
    rope_scaling=RopeScaling(),
    tie_word_embeddings=False,
)
"""A small llama."""


def make_weights(config: ModelConfig, types: Mapping[str, str] | None = None) -> dict[str, Weight]:
    """Weights of a model by role.

    Args:
        config: one of whose name `biases` or `norms` is a part has those of queries and keys, whatever it is.
        types: ggml types of matrices by role, or by a role's last part; else Q4_1.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attention_norm": (hidden,),
        "attention_q": (query, hidden),
        "attention_k": (key, hidden),
        "attention_v": (key, hidden),
        "attention_output": (hidden, query),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    if config.architecture == "qwen2" or "biases" in config.name:
        layer |= {"attention_q_bias": (query,), "attention_k_bias": (key,), "attention_v_bias": (key,)}
    if config.architecture == "qwen3" or "norms" in config.name:
        layer |= {"attention_q_norm": (config.head_dim,), "attention_k_norm": (config.head_dim,)}
    shapes: dict[str, tuple[int, ...]] = {"token_embedding": (config.vocab_size, hidden), "output_norm": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["output"] = (config.vocab_size, hidden)
    for number in range(config.num_layers):
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes["rope_table"] = (config.max_seq_len, config.rope_dim)

    def kind(role: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1 or role == "rope_table":
            return "F32"
        named = types or {}
        return named.get(role, named.get(role.rsplit(".", 1)[-1], "Q4_1"))

    return {role: Weight(role, shape, kind(role, shape)) for role, shape in shapes.items()}


def random_values(weights: Mapping[str, Weight], seed: int = 0) -> dict[str, Float64]:
    """Numbers for weights, of a size that keeps activations near 1."""
    random = np.random.default_rng(seed)
    return {
        role: random.normal(0, 1 if len(weight.shape) == 1 else weight.shape[-1] ** -0.5, weight.shape)
        for role, weight in weights.items()
    }


class Interpreter:
    """One prompt through a graph.

    Args:
        storage: value to the name of the memory that it lies in; each value in its own where None.
        rows: float64[T, input_width], what tokens take from outside, NaN where one takes none; None: none does.
    """

    def __init__(
        self,
        graph: Graph,
        numbers: Mapping[str, Float64],
        token_ids: list[int],
        storage: Mapping[str, str] | None = None,
        rows: Float64 | None = None,
    ) -> None:
        self.graph, self.numbers, self.token_ids = graph, numbers, token_ids
        self.storage = storage or {name: name for name in graph.values}
        self.memory: dict[str, Float64] = {}
        self.rows = np.full((len(token_ids), graph.input_width), np.nan) if rows is None else rows

    def run(self) -> Float64:
        """float64[T, vocab_size], the logits."""
        for node in self.graph.nodes:
            if node.op == "sample":
                return self.read(node.inputs[0]).copy()
            operation = OPERATIONS[node.op]
            tokens = np.array(self.token_ids, np.float64)[:, None]
            inputs = [tokens] if operation.reads_tokens else [self.read(name) for name in node.inputs]
            inputs = [self.rows, *inputs] if operation.reads_rows else inputs
            self.write(node, operation.compute(node, inputs, [self.numbers[name] for name in node.weights]))
        raise AssertionError("expected a sample node")

    def read(self, name: str) -> Float64:
        return self.memory[self.storage[name]]

    def write(self, node: Node, result: Float64) -> None:
        """The whole of a value, or the slice of it that a node writes."""
        columns, offset = self.graph.values[node.output].columns, node.attributes.get("out_offset")
        place = self.storage[node.output]
        if offset is None:
            assert result.shape[1] == columns, node
            self.memory[place] = result
            return
        old = self.memory.get(place)
        if old is None or old.shape != (len(self.token_ids), columns):
            old = np.full((len(self.token_ids), columns), np.nan)
        self.memory[place] = old.copy()
        self.memory[place][:, int(offset) : int(offset) + result.shape[1]] = result
