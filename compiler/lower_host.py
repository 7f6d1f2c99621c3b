"""The graph lowered to the kernels of the host: templates/host."""

from __future__ import annotations

from ..artifacts.formats import FORMATS
from .graph import LOGITS, Graph, Node
from .model_config import ModelConfig
from .passes import Q8_BLOCK, split_weights
from .plan import Parameter, Planner, float_literal
from .target import Target

Q8_BLOCK_BYTES = 52  # sizeof(struct q8_block) in kernels/host/common.h


class HostPlanner(Planner):
    """One launch a node; a step runs them in order on all threads."""

    def __init__(self, graph: Graph, config: ModelConfig, target: Target, kv_dtype: str = "f16") -> None:
        super().__init__(graph, config, target, Q8_BLOCK_BYTES, kv_dtype)

    def _matrix(self, sources: tuple[str, ...], pairs: bool = False) -> str:
        ggml_type = self.graph.weights[sources[0]].ggml_type.lower()
        return self.tensor(sources, f"rows16_pairs_{ggml_type}" if pairs else f"rows16_{ggml_type}")

    def _weight_parameters(self, name: str) -> dict[str, Parameter]:
        weight = self.graph.weights[name]
        is_float = FORMATS[weight.ggml_type].is_float
        columns = weight.shape[1]
        return {
            "columns": columns,
            "weight_type": weight.ggml_type,
            "weight_header": "weights_float.h" if is_float else "weights_quantized.h",
            "activation_bytes": 4 * columns if is_float else columns // Q8_BLOCK * Q8_BLOCK_BYTES,
        }

    def embedding(self, node: Node) -> None:
        """See `Node.op`."""
        parameters = self._weight_parameters(node.weights[0])
        del parameters["activation_bytes"]
        self.launch("embedding", (self._matrix(node.weights), self.value(node.output)), **parameters)

    def norm(self, node: Node) -> None:
        """See `Node.op`."""
        out = self.graph.values[node.output]
        self.launch(
            "norm",
            (self.value(node.inputs[0]), self.tensor(node.weights, "f32"), self.value(node.output)),
            columns=out.columns,
            epsilon=float_literal(node.attributes["epsilon"]),
            out_q8=out.dtype == "q8",
            at_logits_rows=out.rows == LOGITS,
        )

    def linear(self, node: Node) -> None:
        """See `Node.op`."""
        matrices, biases = split_weights(self.graph, node)
        out = self.graph.values[node.output]
        bias = self.tensor(biases, "f32") if biases else "none"
        self.launch(
            "matmul",
            (self._matrix(matrices), self.value(node.inputs[0]), self.value(node.output), bias),
            rows=sum(self.graph.weights[name].shape[0] for name in matrices),
            out_stride=out.columns,
            out_offset=node.attributes["out_offset"],
            has_bias=bool(biases),
            accumulate=len(node.inputs) == 2,
            at_logits_rows=out.rows == LOGITS,
            **self._weight_parameters(matrices[0]),
        )

    def gate_up(self, node: Node) -> None:
        """See `Node.op`."""
        out = self.graph.values[node.output]
        self.launch(
            "gate_up",
            (self._matrix(node.weights, pairs=True), self.value(node.inputs[0]), self.value(node.output)),
            rows=out.columns,
            out_q8=out.dtype == "q8",
            **self._weight_parameters(node.weights[0]),
        )

    def quantize(self, node: Node) -> None:
        """See `Node.op`."""
        columns = self.graph.values[node.output].columns
        self.launch("quantize", (self.value(node.inputs[0]), self.value(node.output)), columns=columns)

    def swiglu(self, node: Node) -> None:
        """See `Node.op`."""
        columns = self.graph.values[node.output].columns
        self.launch("swiglu", (self.value(node.inputs[0]), self.value(node.output)), columns=columns)

    def _heads(self) -> dict[str, Parameter]:
        config = self.config
        return {
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "kv_q8_0": self.kv_dtype == "q8_0",
        }

    def rope_kv(self, node: Node) -> None:
        """See `Node.op`."""
        layer = node.attributes["layer"]
        norms = tuple(self.tensor((name,), "f32") for name in node.weights[1:])
        table = self.tensor(node.weights[:1], "rope_table")
        self.launch(
            "rope_kv",
            (self.value(node.inputs[0]), table, f"kv:{layer}:key", f"kv:{layer}:value", *norms),
            rope_dim=self.config.rope_dim,
            interleaved=self.config.rope_style == "interleaved",
            qk_norm=bool(norms),
            epsilon=float_literal(node.attributes["epsilon"]),
            **self._heads(),
        )

    def attention(self, node: Node) -> None:
        """See `Node.op`."""
        layer = node.attributes["layer"]
        self.launch(
            "attention",
            (self.value(node.inputs[0]), f"kv:{layer}:key", f"kv:{layer}:value", self.value(node.output)),
            scale=float_literal(self.config.head_dim**-0.5),
            out_q8=self.graph.values[node.output].dtype == "q8",
            **self._heads(),
        )

    def sample(self, node: Node) -> None:
        """See `Node.op`."""
        vocab_size = self.graph.values[node.output].columns
        self.launch("sample", (self.value(node.inputs[0]), self.value(node.output)), vocab_size=vocab_size)
