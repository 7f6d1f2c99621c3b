"""A model's logits as its graph means them: NumPy float64, operation by operation, no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.graph import Graph
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_source import ModelSource
from rocmforge.compiler.model_tensors import weight_tensors, weights_by_role
from rocmforge.compiler.operation import Float64
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops import attention, rope_kv
from rocmforge.compiler.read_config import read_config
from rocmforge.compiler.sources import open_source
from rocmforge.compiler.weights import read_floats

_BY_POSITIONS = {"rope_kv": rope_kv.compute, "attention": attention.compute}
"""What operations mean that rotary positions of a step decide."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A model whose weights are all floats, in float64.

    Attributes:
        graph: as its family draws it, before any pass.
        numbers: every weight by its role, and the tables by position.
    """

    config: ModelConfig
    graph: Graph
    numbers: Mapping[str, Float64]

    @classmethod
    def of(cls, path: Path, positions: int) -> Self:
        """Read a model.

        Raises:
            InputError: it is not supported.
        """
        source = open_source(path)
        config = read_config(source)
        return cls.with_config(source, config, positions)

    @classmethod
    def with_config(cls, source: ModelSource, config: ModelConfig, positions: int) -> Self:
        """Return the meaning of a source under a configuration."""
        tensors = weight_tensors(source, config)
        numbers = {role: read_floats(source, one).reshape(one.shape) for role, one in tensors.items()}
        for role, table in config.tables().items():
            factors = table.factors_role(config.max_seq_len)
            numbers[role] = table.numbers(numbers[factors] if factors else None, positions)
        graph = build_graph(config, weights_by_role(source, config))
        return cls(config, graph, {role: values.astype(np.float64) for role, values in numbers.items()})

    def logits(
        self, token_ids: Sequence[int], rows: Float64 | None = None, rotary: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return float64[vocab_size], of the last of these tokens; see `value`."""
        last: Float64 = self.value("", token_ids, rows, rotary)[-1]
        return last

    def value(
        self,
        name: str,
        token_ids: Sequence[int],
        rows: Float64 | None = None,
        rotary: npt.NDArray[np.intp] | None = None,
    ) -> Float64:
        """Return a value at each of these tokens.

        Args:
            name: the end of its name; "": of the logits that tokens are drawn from.
            rows: float64[T, input_width], what tokens take from outside, NaN where one takes none; None: none does.
            rotary: int[4, T], `Batch.rope_positions`.
        """
        values: dict[str, Float64] = {}
        rows = np.full((len(token_ids), self.graph.input_width), np.nan) if rows is None else rows
        for node in self.graph.nodes:
            if node.op == "sample":
                wanted = next(one for one in values if one.endswith(name)) if name else node.inputs[0]
                return values[wanted]
            operation = OPERATIONS[node.op]
            tokens = np.array(token_ids, np.float64)[:, None]
            inputs = [tokens] if operation.reads_tokens else [values[name] for name in node.inputs]
            inputs = [rows, *inputs] if operation.reads_rows else inputs
            weights = [self.numbers[name] for name in node.weights]
            compute = operation.compute
            if node.op in _BY_POSITIONS and rotary is not None:
                compute = partial(_BY_POSITIONS[node.op], positions=rotary)
            result = compute(node, inputs, weights)
            if "out_offset" not in node.attributes:
                values[node.output] = result
                continue
            whole = values.setdefault(node.output, np.zeros((len(token_ids), self.graph.values[node.output].columns)))
            offset = node.integer("out_offset")
            whole[:, offset : offset + result.shape[1]] = result
        raise AssertionError("a graph ends with a sample")
