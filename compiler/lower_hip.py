"""The graph lowered to the kernels of AMD GPUs: templates/hip.

A node may become several launches: matrix products have kernels for few tokens and for many, attention is split over
the context where tokens are few. How a sum is cut, which decides its bits, depends on shapes alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..artifacts.errors import UsageError
from ..artifacts.formats import FORMATS
from ..artifacts.layout import BufferEntry, GridEntry
from ..artifacts.packing_sizes import LANE_ROWS
from ..artifacts.targets import GpuFeatures
from .graph import LOGITS, Graph, Node
from .model_config import ModelConfig
from .passes import split_weights
from .plan import Parameter, Plan, Planner, float_literal
from .target import Target
from .tuning import MOST_TOKENS, SLICE_LDS_BYTES, Tuning, check_tuning

Q8_BLOCK_BYTES: Final = 48  # sizeof(struct q8_block) in kernels/hip/prelude.h
THREADS: Final = 256  # of the elementwise kernels
FEW_TOKENS: Final = (1, 2, 4, MOST_TOKENS)  # a kernel for each, up to so many tokens; more take the tiled kernel
TILED_TOKENS: Final = 64
SPLIT_TOKENS: Final = 16  # most tokens for which attention is split over the context
MIN_SPLIT: Final = 128  # positions; kernels/hip/attention.h
MAX_SPLITS: Final = 64
MAX_HEAD_DIM: Final = 256
_MANY: Final = (1 << 31) - 1
_WAVES_WANTED: Final = 2048  # about what the large GPUs hold at once
_MAX_THREADS: Final = 512
DEFAULT_TUNING: Final = Tuning()


def num_slices(rows: int, columns: int, unit_columns: int, most: int) -> int:
    """Waves that share the columns of a tile of rows: a power of two.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        unit_columns: least that a wave can take.
        most: of them.
    """
    tiles, units = -(-rows // LANE_ROWS), -(-columns // unit_columns)
    slices = 1
    while slices < most and 2 * slices <= units and tiles * slices < _WAVES_WANTED:
        slices *= 2
    return slices


class HipPlanner(Planner):
    """Launches with grids; a step runs those whose token counts fit."""

    def __init__(
        self,
        graph: Graph,
        config: ModelConfig,
        target: Target,
        max_seq_len: int | None = None,
        tuning: Tuning = DEFAULT_TUNING,
        kv_dtype: str = "f16",
    ) -> None:
        """Args: as `Planner`; `max_seq_len` bounds the context (None: the model's own bound).

        Raises:
            UsageError: a shape that the kernels do not have, or a tuning that the target cannot have.
        """
        check_tuning(tuning, target)
        super().__init__(graph, config, target, Q8_BLOCK_BYTES, kv_dtype)
        assert target.gpu is not None
        self.gpu: GpuFeatures = target.gpu
        self.tuning = tuning
        self.threads = tuning.block_size or THREADS
        self.max_seq_len = max_seq_len or config.max_seq_len
        if config.head_dim % 8 or config.head_dim > MAX_HEAD_DIM:
            raise UsageError(f"heads of {config.head_dim}: GPU kernels take multiples of 8 up to {MAX_HEAD_DIM}")

    def finish(self) -> Plan:
        """Lower all nodes; the step comes first, and its echo is the last of what is captured: all but sampling."""
        self._host_launch("step_in", "step:image", 1024)
        self._host_launch("step_echo", "step:echo", 64)
        plan = super().finish()
        step_in, step_echo, *forward, sample = plan.launches
        return replace(plan, launches=(step_in, *forward, step_echo, sample))

    def _host_launch(self, template: str, argument: str, threads: int) -> None:
        self.launch(template, (argument,), GridEntry(threads, 1), wave_size=self.gpu.wave_size)

    def _matrix(self, sources: tuple[str, ...], pairs: bool = False) -> str:
        ggml_type = self.graph.weights[sources[0]].ggml_type.lower()
        return self.tensor(sources, f"lanes32_pairs_{ggml_type}" if pairs else f"lanes32_{ggml_type}")

    def _weight_parameters(self, name: str) -> dict[str, Parameter]:
        weight = self.graph.weights[name]
        is_float = FORMATS[weight.ggml_type].is_float
        if is_float and weight.shape[1] % 8:
            raise UsageError(f"{name}: {weight.shape[1]} columns: GPU kernels take multiples of 8")
        return {
            "columns": weight.shape[1],
            "weight_type": weight.ggml_type,
            "weight_kind": "float" if is_float else "quantized",
            "wave_size": self.gpu.wave_size,
        }

    def embedding(self, node: Node) -> None:
        """See `Node.op`."""
        arguments = (self._matrix(node.weights), self.value(node.output))
        self.launch("embedding", arguments, GridEntry(128, 1, "tokens"), **self._weight_parameters(node.weights[0]))

    def norm(self, node: Node) -> None:
        """See `Node.op`."""
        out = self.graph.values[node.output]
        self.launch(
            "norm",
            (self.value(node.inputs[0]), self.tensor(node.weights, "f32"), self.value(node.output)),
            GridEntry(self.threads, 1, "logits" if out.rows == LOGITS else "tokens"),
            columns=out.columns,
            threads=self.threads,
            epsilon=float_literal(node.attributes["epsilon"]),
            out_q8=out.dtype == "q8",
            at_logits_rows=out.rows == LOGITS,
            wave_size=self.gpu.wave_size,
        )

    def _most_slices(self, columns: int) -> int:
        """Most waves that share a row of `columns`, 0 as 1; for all numbers of tokens the same: it decides the bits."""
        tuning, most = self.tuning, _MAX_THREADS // self.gpu.wave_size
        if tuning.use_lds is False:
            return 1
        if tuning.tile_k is not None:
            most = min(most, columns // tuning.tile_k)
        if tuning.lds_size is not None:
            most = min(most, tuning.lds_size // SLICE_LDS_BYTES)
        return most

    def _matmul(self, arguments: tuple[str, ...], name: str, stacked_rows: int, **parameters: Parameter) -> None:
        """Launches of one matrix product: the kernels for few tokens, then the one for many.

        Args:
            arguments: weights, activations, out, bias.
            name: one of the weights.
            stacked_rows: rows of the packed tensor.
            parameters: what is special to the product.
        """
        weight = self._weight_parameters(name)
        unit = max(64, FORMATS[str(weight["weight_type"])].columns)
        tiles = -(-stacked_rows // LANE_ROWS)
        slices = num_slices(stacked_rows, int(weight["columns"]), unit, self._most_slices(int(weight["columns"])))
        # A wave of 64 lanes takes two tiles side by side; one of 32 does so in turn, where that leaves waves enough.
        row_tiles = 2 if parameters["gate_up"] or self.gpu.wave_size == 64 or tiles * slices >= _WAVES_WANTED else 1
        if self.tuning.tile_n is not None and not parameters["gate_up"]:
            row_tiles = self.tuning.tile_n // LANE_ROWS
        rows = "logits" if parameters["at_logits_rows"] else "tokens"
        is_float = weight["weight_kind"] == "float"
        common = {**parameters, **weight, "slices": slices, "dot": "none" if is_float else self.gpu.dot}
        at_least = 1
        for tokens in FEW_TOKENS:
            grid = GridEntry(slices * self.gpu.wave_size, -(-tiles // row_tiles), rows, tokens, 0, at_least, tokens)
            self.launch("gemv", arguments, grid, tokens=tokens, row_tiles=row_tiles, **common)
            at_least = tokens + 1
        matrix = "none" if is_float else self.gpu.matrix
        waves = 8 if matrix.startswith("wmma") else 4  # GEMM_WAVES of kernels/hip/matrix.h
        grid = GridEntry(waves * self.gpu.wave_size, -(-tiles // 2), rows, TILED_TOKENS, 0, at_least, _MANY)
        self.launch("gemm", arguments, grid, matrix=matrix, **common)

    def linear(self, node: Node) -> None:
        """See `Node.op`."""
        matrices, biases = split_weights(self.graph, node)
        out = self.graph.values[node.output]
        rows = sum(self.graph.weights[name].shape[0] for name in matrices)
        bias = self.tensor(biases, "f32") if biases else "none"
        self._matmul(
            (self._matrix(matrices), self.value(node.inputs[0]), self.value(node.output), bias),
            matrices[0],
            rows,
            rows=rows,
            gate_up=False,
            out_q8=False,
            out_stride=out.columns,
            out_offset=node.attributes["out_offset"],
            has_bias=bool(biases),
            accumulate=len(node.inputs) == 2,
            at_logits_rows=out.rows == LOGITS,
        )

    def gate_up(self, node: Node) -> None:
        """See `Node.op`."""
        out = self.graph.values[node.output]
        self._matmul(
            (self._matrix(node.weights, pairs=True), self.value(node.inputs[0]), self.value(node.output)),
            node.weights[0],
            2 * out.columns,
            rows=out.columns,
            gate_up=True,
            out_q8=out.dtype == "q8",
            out_stride=out.columns,
            out_offset=0,
            has_bias=False,
            accumulate=False,
            at_logits_rows=out.rows == LOGITS,
        )

    def _elementwise(self, op: str, node: Node) -> None:
        columns = self.graph.values[node.output].columns
        self.launch(
            op,
            (self.value(node.inputs[0]), self.value(node.output)),
            GridEntry(self.threads, -(-columns // self.threads), "tokens"),
            columns=columns,
            threads=self.threads,
            wave_size=self.gpu.wave_size,
        )

    def quantize(self, node: Node) -> None:
        """See `Node.op`."""
        self._elementwise("quantize", node)

    def swiglu(self, node: Node) -> None:
        """See `Node.op`."""
        self._elementwise("swiglu", node)

    def _heads(self) -> dict[str, Parameter]:
        config = self.config
        return {
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "kv_q8_0": self.kv_dtype == "q8_0",
            "wave_size": self.gpu.wave_size,
        }

    def rope_kv(self, node: Node) -> None:
        """See `Node.op`."""
        layer = node.attributes["layer"]
        norms = tuple(self.tensor((name,), "f32") for name in node.weights[1:])
        table = self.tensor(node.weights[:1], "rope_table")
        heads = self.config.num_heads + 2 * self.config.num_kv_heads
        self.launch(
            "rope_kv",
            (self.value(node.inputs[0]), table, f"kv:{layer}:key", f"kv:{layer}:value", *norms),
            GridEntry(4 * self.gpu.wave_size, -(-heads // 4), "tokens"),
            rope_dim=self.config.rope_dim,
            interleaved=self.config.rope_style == "interleaved",
            qk_norm=bool(norms),
            epsilon=float_literal(node.attributes["epsilon"]),
            **self._heads(),
        )

    def attention(self, node: Node) -> None:
        """See `Node.op`."""
        config, layer, wave_size = self.config, node.attributes["layer"], self.gpu.wave_size
        group = config.num_heads // config.num_kv_heads
        # Rows of a wave: heads of one group, so that each key is loaded once for them; in tiles tokens beside them.
        few_rows, many_rows = (max(n for n in range(1, most + 1) if group % n == 0) for most in (8, 4))
        token_rows = 4 // many_rows
        split = MIN_SPLIT
        while split * MAX_SPLITS < self.max_seq_len:
            split *= 2
        splits = -(-self.max_seq_len // split)
        common: dict[str, Parameter] = {
            "scale": float_literal(config.head_dim**-0.5),
            "out_q8": self.graph.values[node.output].dtype == "q8",
            "split": split,
            "max_splits": splits,
            **self._heads(),
        }
        qkv, out = self.value(node.inputs[0]), self.value(node.output)
        pages = (f"kv:{layer}:key", f"kv:{layer}:value")
        lanes = max(4, 1 << (config.head_dim // 8 - 1).bit_length())  # LANES of kernels/hip/attention.h
        records = self._records(SPLIT_TOKENS * config.num_heads * splits * (config.head_dim + 4))
        few = GridEntry(wave_size, config.num_heads // few_rows, "tokens", 1, split, 1, SPLIT_TOKENS)
        self.launch("attention_split", (qkv, *pages, records), few, head_rows=few_rows, token_rows=1, **common)
        merge = GridEntry(64, -(-config.num_heads * lanes // 64), "tokens", 1, 0, 1, SPLIT_TOKENS)
        self.launch("attention_merge", (records, out), merge, head_rows=1, token_rows=1, **common)
        x = config.num_heads // many_rows
        many = GridEntry(4 * wave_size, x, "tokens", 4 * token_rows, 0, SPLIT_TOKENS + 1, _MANY)
        self.launch("attention_tiled", (qkv, *pages, out), many, head_rows=many_rows, token_rows=token_rows, **common)

    def _records(self, elements: int) -> str:
        """The argument for the buffer between the two halves of a split attention, one for all layers."""
        name = "attention_records"
        if all(buffer.name != name for buffer in self.buffers):
            self.buffers = (*self.buffers, BufferEntry(name, "float32", 0, elements))
        return f"buffer:{name}"

    def sample(self, node: Node) -> None:
        """See `Node.op`."""
        vocab_size = self.graph.values[node.output].columns
        self.launch(
            "sample",
            (self.value(node.inputs[0]),),
            GridEntry(512, 1, "logits"),
            vocab_size=vocab_size,
            wave_size=self.gpu.wave_size,
        )
