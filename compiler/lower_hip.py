"""What operations share that are lowered to the kernels of AMD GPUs: kernels/hip.

A node may become several launches: matrix products have kernels for few tokens and for many. How a sum is cut, which
decides its bits, depends on shapes alone.
"""

from __future__ import annotations

from typing import Final

from ..artifacts.arguments import Argument, StepRef
from ..artifacts.formats import BLOCK_COLUMNS, FORMATS, WeightFormat
from ..artifacts.layout import GridEntry, KvLayout
from ..artifacts.packing_sizes import LANE_ROWS
from ..artifacts.targets import GpuFeatures
from .graph import LOGITS, Q8, Graph, Node
from .plan import Parameter, Plan
from .planner import Buffers, Planner, Q8Block
from .target import Target
from .tuning import DEFAULT_TUNING, MOST_TOKENS, SLICE_LDS_BYTES, Tuning, check_tuning

Q8_BLOCKS: Final = {Q8: Q8Block(BLOCK_COLUMNS, 48)}  # sizeof(struct q8_block) in kernels/hip/prelude.h
THREADS: Final = 256  # of the elementwise kernels
FEW_TOKENS: Final = (1, 2, 4, MOST_TOKENS)  # a kernel for each, up to so many tokens; more take the tiled kernel
TILED_TOKENS: Final = 64
EXPERT_TOKENS: Final = 2  # from so many an expert on, on average, its tokens are computed together
MANY: Final = (1 << 31) - 1
_WAVES_WANTED: Final = 2048  # about what the large GPUs hold at once
_MAX_THREADS: Final = 512


def num_slices(rows: int, columns: int, unit_columns: int, most: int) -> int:
    """Return how many waves share the columns of a tile of rows: a power of two.

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

    packing = "lanes32"

    def __init__(
        self,
        graph: Graph,
        target: Target,
        buffers: Buffers,
        kv: KvLayout,
        max_seq_len: int,
        tuning: Tuning = DEFAULT_TUNING,
    ) -> None:
        """Lower as `Planner` does; `max_seq_len` bounds the context.

        Raises:
            UsageError: a tuning that the target cannot have.
        """
        check_tuning(tuning, target)
        super().__init__(graph, target, buffers, kv, max_seq_len)
        assert target.gpu is not None
        self.gpu: GpuFeatures = target.gpu
        self.tuning = tuning
        self.threads = tuning.block_size or THREADS

    def finish(self) -> Plan:
        """See `Planner`; the step comes first, and its echo is the last of what is captured: all but sampling."""
        *forward, sample = self.launches
        self.launches = []
        self._host_launch("step_in", StepRef("image"), 1024)
        self.launches += forward
        self._host_launch("step_echo", StepRef("echo"), 64)
        self.launches.append(sample)
        return super().finish()

    def _host_launch(self, template: str, argument: StepRef, threads: int) -> None:
        self.launch(template, (argument,), GridEntry(threads, 1), wave_size=self.gpu.wave_size)

    def weight_parameters(self, name: str) -> dict[str, Parameter]:
        """Return what a kernel is told of a matrix."""
        weight = self.graph.weights[name]
        return {
            "columns": weight.shape[1],
            "weight_type": weight.ggml_type,
            "wave_size": self.gpu.wave_size,
        }

    def elementwise(self, template: str, node: Node, *arguments: Argument, **more: Parameter) -> None:
        """Append a launch with a work item for each element of the output; `arguments` where they are not the usual."""
        out = self.graph.values[node.output]
        self.launch(
            template,
            arguments or (self.value(node.inputs[0]), self.value(node.output)),
            GridEntry(self.threads, -(-out.columns // self.threads), "logits" if out.rows == LOGITS else "tokens"),
            columns=out.columns,
            threads=self.threads,
            wave_size=self.gpu.wave_size,
            **more,
        )

    def rows_of_waves(self, template: str, arguments: tuple[Argument, ...], **parameters: Parameter) -> None:
        """Append a launch with a wave for each token."""
        self.launch(
            template, arguments, GridEntry(self.gpu.wave_size, 1, "tokens"), wave_size=self.gpu.wave_size, **parameters
        )

    def expert_matmul(self, arguments: tuple[Argument, ...], name: str, **parameters: Parameter) -> None:
        """Append the launches of products with experts' matrices: few tokens' one by one, many together by expert.

        Args:
            arguments: weights, activations, what `route` made, out, bias, scale.
            name: of the weight.
            parameters: what is special to the product.
        """
        weight = self.weight_parameters(name)
        rows, columns = int(parameters["rows"]), int(weight["columns"])
        weight_format = FORMATS[str(weight["weight_type"])]
        tiles = -(-rows // LANE_ROWS) + bool(rows % LANE_ROWS)  # an expert may begin within one
        slices = num_slices(rows, columns, max(64, weight_format.columns), self._most_slices(columns))
        dot = "none" if weight_format.is_float else self.gpu.dot
        common = {**parameters, **weight, "slices": slices, "dot": dot}
        experts, used = int(parameters["experts"]), int(parameters["used"])
        row_tiles = self.gpu.wave_size // LANE_ROWS
        groups = -(-tiles // row_tiles)
        few = max(MOST_TOKENS, EXPERT_TOKENS * experts // used)
        grid = GridEntry(slices * self.gpu.wave_size, groups * used, "tokens", at_most=few)
        self.launch("expert_gemv", arguments, grid, row_tiles=row_tiles, tile_groups=groups, **common)
        matrix, waves = self._matrix(weight_format)
        groups = -(-tiles // 2)
        each = TILED_TOKENS // int(parameters.get("repeats", 1))  # that many tokens fill a tile at least once
        grid = GridEntry(waves * self.gpu.wave_size, experts * groups, "tokens", each, 0, few + 1, MANY)
        self.launch("expert_gemm", arguments, grid, matrix=matrix, tile_groups=groups, **common)

    def _matrix(self, weight_format: WeightFormat) -> tuple[str, int]:
        """Return the matrix instructions that the kernels for many tokens use, and their waves a workgroup."""
        matrix = "none" if weight_format.is_float else self.gpu.matrix
        return matrix, 8 if matrix.startswith("wmma") else 4  # GEMM_WAVES of kernels/hip/matrix.h

    def _most_slices(self, columns: int) -> int:
        """Return the most waves that share a row of `columns`, 0 as 1; whatever the tokens, as it decides the bits."""
        tuning, most = self.tuning, _MAX_THREADS // self.gpu.wave_size
        if tuning.use_lds is False:
            return 1
        if tuning.tile_k is not None:
            most = min(most, columns // tuning.tile_k)
        if tuning.lds_size is not None:
            most = min(most, tuning.lds_size // SLICE_LDS_BYTES)
        return most

    def matmul(self, arguments: tuple[Argument, ...], name: str, stacked_rows: int, **parameters: Parameter) -> None:
        """Append the launches of one matrix product: the kernels for few tokens, then the one for many.

        Args:
            arguments: weights, activations, out, bias.
            name: one of the weights.
            stacked_rows: rows of the packed tensor.
            parameters: what is special to the product.
        """
        weight = self.weight_parameters(name)
        unit = max(64, FORMATS[str(weight["weight_type"])].columns)
        tiles = -(-stacked_rows // LANE_ROWS)
        slices = num_slices(stacked_rows, int(weight["columns"]), unit, self._most_slices(int(weight["columns"])))
        # A wave of 64 lanes takes two tiles side by side; one of 32 does so in turn, where that leaves waves enough.
        row_tiles = 2 if parameters["gate_up"] or self.gpu.wave_size == 64 or tiles * slices >= _WAVES_WANTED else 1
        if self.tuning.tile_n is not None and not parameters["gate_up"]:
            row_tiles = self.tuning.tile_n // LANE_ROWS
        rows = "logits" if parameters["at_logits_rows"] else "tokens"
        is_float = FORMATS[str(weight["weight_type"])].is_float
        common = {**parameters, **weight, "slices": slices, "dot": "none" if is_float else self.gpu.dot}
        at_least = 1
        for tokens in FEW_TOKENS:
            grid = GridEntry(slices * self.gpu.wave_size, -(-tiles // row_tiles), rows, tokens, 0, at_least, tokens)
            self.launch("gemv", arguments, grid, tokens=tokens, row_tiles=row_tiles, **common)
            at_least = tokens + 1
        matrix, waves = self._matrix(FORMATS[str(weight["weight_type"])])
        grid = GridEntry(waves * self.gpu.wave_size, -(-tiles // 2), rows, TILED_TOKENS, 0, at_least, MANY)
        self.launch("gemm", arguments, grid, matrix=matrix, **common)
