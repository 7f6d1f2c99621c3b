"""Runs a graph in NumPy float64, node by node as `Node.op` defines them: what passes must leave as it was.

Int8 blocks are taken for the numbers that they stand for: rounding is not of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.graph import Graph, Node, Weight
from rocmforge.compiler.model_config import ModelConfig, RopeScaling

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
    rms_norm_eps=1e-5,
    rope_style="interleaved",
    rope_dim=32,
    rope_scaling=RopeScaling(),
    qkv_bias=False,
    qk_norm=False,
    tie_word_embeddings=False,
)
"""A small llama."""


def make_weights(config: ModelConfig, types: Mapping[str, str] | None = None) -> dict[str, Weight]:
    """Weights of a model by role.

    Args:
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
    if config.qkv_bias:
        layer |= {"attention_q_bias": (query,), "attention_k_bias": (key,), "attention_v_bias": (key,)}
    if config.qk_norm:
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
    """

    def __init__(
        self,
        graph: Graph,
        config: ModelConfig,
        numbers: Mapping[str, Float64],
        token_ids: list[int],
        storage: Mapping[str, str] | None = None,
    ) -> None:
        self.graph, self.config, self.numbers, self.token_ids = graph, config, numbers, token_ids
        self.storage = storage or {name: name for name in graph.values}
        self.memory: dict[str, Float64] = {}

    def run(self) -> Float64:
        """float64[T, vocab_size], the logits."""
        for node in self.graph.nodes:
            if node.op == "sample":
                return self.read(node.inputs[0]).copy()
            getattr(self, node.op)(node)
        raise AssertionError("expected a sample node")

    def read(self, name: str) -> Float64:
        return self.memory[self.storage[name]]

    def write(self, node: Node, value: Float64) -> None:
        assert value.shape[1] == self.graph.values[node.output].columns, node
        self.memory[self.storage[node.output]] = value

    def embedding(self, node: Node) -> None:
        self.write(node, self.numbers[node.weights[0]][self.token_ids])

    def norm(self, node: Node) -> None:
        self.write(node, self.normed(self.read(node.inputs[0]), node.weights[0], node.attributes["epsilon"]))

    def normed(self, x: Float64, weight: str, epsilon: float) -> Float64:
        scaled: Float64 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * self.numbers[weight]
        return scaled

    def linear(self, node: Node) -> None:
        matrices = [self.numbers[name] for name in node.weights if self.numbers[name].ndim == 2]
        biases = [self.numbers[name] for name in node.weights if self.numbers[name].ndim == 1]
        result = self.read(node.inputs[0]) @ np.concatenate(matrices).T
        if biases:
            result = result + np.concatenate(biases)
        columns = self.graph.values[node.output].columns
        place = self.storage[node.output]
        old = self.memory.get(place)
        if old is None or old.shape != (len(self.token_ids), columns):
            old = np.full((len(self.token_ids), columns), np.nan)
        new = old.copy()
        mine = slice(node.attributes["out_offset"], int(node.attributes["out_offset"]) + result.shape[1])
        new[:, mine] = result + (self.read(node.inputs[1])[:, mine] if len(node.inputs) == 2 else 0)
        self.memory[place] = new

    def gate_up(self, node: Node) -> None:
        gate, up = (self.read(node.inputs[0]) @ self.numbers[name].T for name in node.weights)
        self.write(node, gate / (1 + np.exp(-gate)) * up)

    def swiglu(self, node: Node) -> None:
        gate, up = np.split(self.read(node.inputs[0]), 2, axis=1)
        self.write(node, gate / (1 + np.exp(-gate)) * up)

    def quantize(self, node: Node) -> None:
        self.write(node, self.read(node.inputs[0]).copy())

    def add(self, node: Node) -> None:
        self.write(node, self.read(node.inputs[0]) + self.read(node.inputs[1]))

    def rope_kv(self, node: Node) -> None:
        config = self.config
        heads = self.read(node.inputs[0]).reshape(len(self.token_ids), -1, config.head_dim).copy()
        split = config.num_heads, config.num_heads + config.num_kv_heads
        if config.qk_norm:
            heads[:, : split[0]] = self.normed(heads[:, : split[0]], node.weights[1], node.attributes["epsilon"])
            keys = heads[:, split[0] : split[1]]
            heads[:, split[0] : split[1]] = self.normed(keys, node.weights[2], node.attributes["epsilon"])
        table = self.numbers[node.weights[0]][: len(self.token_ids), None]
        cosines, sines = np.split(table, 2, axis=-1)
        half = config.rope_dim // 2
        interleaved = config.rope_style == "interleaved"
        one = slice(0, config.rope_dim, 2) if interleaved else slice(0, half)
        two = slice(1, config.rope_dim, 2) if interleaved else slice(half, config.rope_dim)
        turned = heads[:, : split[1]]
        first, second = turned[..., one].copy(), turned[..., two].copy()
        turned[..., one] = first * cosines - second * sines
        turned[..., two] = first * sines + second * cosines
        self.write(node, heads.reshape(len(self.token_ids), -1))

    def attention(self, node: Node) -> None:
        config = self.config
        heads = self.read(node.inputs[0]).reshape(len(self.token_ids), -1, config.head_dim)
        query, key, value = np.split(heads, [config.num_heads, config.num_heads + config.num_kv_heads], axis=1)
        group = config.num_heads // config.num_kv_heads
        scores = np.einsum("qhd,khd->hqk", query, np.repeat(key, group, axis=1)) * config.head_dim**-0.5
        weights = np.exp(np.where(np.tri(len(heads), dtype=bool), scores, -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, np.repeat(value, group, axis=1))
        self.write(node, mixed.reshape(len(heads), -1))
