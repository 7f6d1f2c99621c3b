"""What operations share that are lowered to the kernels of the host: kernels/host."""

from __future__ import annotations

from typing import Final

from ..artifacts.formats import BLOCK_COLUMNS, SUPERBLOCK_COLUMNS
from .graph import Q8, Q8_SUPER, TOKENS, Node
from .plan import Parameter
from .planner import Planner, Q8Block

# sizeof(struct q8_block) and sizeof(struct q8_superblock) in kernels/host/common.h
Q8_BLOCKS: Final = {Q8: Q8Block(BLOCK_COLUMNS, 56), Q8_SUPER: Q8Block(SUPERBLOCK_COLUMNS, 468)}


class HostPlanner(Planner):
    """One launch a node; a step runs them in order on all threads.

    Attributes:
        of_outputs: what the nodes that are lowered make of a token is read for that token alone, and in this step: it
            need not be made where no output of the token is read.
    """

    packing = "rows16"
    of_outputs = False

    def row_parameters(self, node: Node) -> dict[str, Parameter]:
        """Return what a kernel is told of the rows that it makes, where they are not those of all tokens."""
        return {"at_output_rows": True} if self.of_outputs and self.graph.values[node.output].rows == TOKENS else {}

    def weight_parameters(self, name: str, rows: str = "") -> dict[str, Parameter]:
        """Return what a kernel is told of a matrix, and of the value whose rows it is multiplied with, if it is."""
        weight = self.graph.weights[name]
        columns, dtype = weight.shape[1], self.graph.values[rows].dtype if rows else ""
        parameters: dict[str, Parameter] = {"columns": columns, "weight_type": weight.ggml_type}
        if dtype in Q8_BLOCKS:
            block = Q8_BLOCKS[dtype]
            parameters |= {"activation_bytes": columns // block.columns * block.n_bytes, "x_super": dtype == Q8_SUPER}
        elif rows:
            parameters["activation_bytes"] = 4 * columns
        return parameters
