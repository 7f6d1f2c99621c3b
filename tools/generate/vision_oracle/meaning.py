"""Rows of a picture as the graph of an encoder means them: NumPy float64, operation by operation, no kernel."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.graph import Graph
from rocmforge.compiler.operation import Float64
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops import attention, rope_kv
from rocmforge.compiler.vision.model import VisionModel
from rocmforge.compiler.weights import read_floats
from rocmforge.runtime.device.batch import Batch


def numbers_of(model: VisionModel) -> dict[str, Float64]:
    """Return every weight of an encoder by its role, and its tables."""
    numbers = {role: read_floats(model.source, one).reshape(one.shape) for role, one in model.tensors.items()}
    numbers |= {role: table.numbers(None, model.max_tokens) for role, table in model.tables.items()}
    return {role: values.astype(np.float64) for role, values in (numbers | dict(model.made)).items()}


def meant_rows(graph: Graph, numbers: dict[str, Float64], batch: Batch) -> Float64:
    """Return float64[R, row width] of a step; the graph may have been through passes, with float weights alone."""
    assert batch.input_rows is not None
    assert batch.row_of is not None
    given = np.where(batch.row_of[:, None] < 0, np.nan, batch.input_rows[batch.row_of].astype(np.float64))
    rotary = None if batch.rope_positions is None else batch.rope_positions.astype(np.intp)
    values: dict[str, Float64] = {}
    chosen: npt.NDArray[np.int32] = batch.logits_rows
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        if node.op == "sample":
            return inputs[0]
        operation = OPERATIONS[node.op]
        compute = operation.compute
        if node.op == "rope_kv":
            compute = partial(rope_kv.compute, positions=rotary)
        if node.op == "attention" and node.attributes.get("spans"):
            compute = partial(attention.compute, positions=rotary)
        weights = [numbers[name] for name in node.weights]
        result = compute(node, [given, *inputs] if operation.reads_rows else inputs, weights)
        if node.op == "merge_rows":
            result = result[chosen]
        if "out_offset" not in node.attributes:
            values[node.output] = result
            continue
        whole = values.setdefault(node.output, np.zeros((len(result), graph.values[node.output].columns)))
        offset = node.integer("out_offset")
        whole[:, offset : offset + result.shape[1]] = result
    raise AssertionError("a graph ends with a sample")
