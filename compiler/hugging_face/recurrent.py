"""Tensors of folders of models with recurrent state, or with matrices side by side, as GGUF has them.

Source: `transformers`, `modeling_qwen3_next.py`, `modeling_qwen3_5.py` and `modeling_granitemoehybrid.py`, for what the
rows are; llama.cpp 11434's files for their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from ...artifacts.errors import InputError
from ..floats import Floats
from .folder_tensor import FolderTensor
from .json_file import JsonObject
from .rearranged import Order, changed, renamed, shaped, with_columns, with_rows

MAX_HEADS: Final = 1 << 12
MAX_SIZE: Final = 1 << 17
_FUSED_EXPERTS: Final = ".experts.gate_up_proj"


def decay(values: Floats) -> Floats:
    """Return what GGUF has of a logarithm of how quickly a state decays; in double: the same on every machine."""
    return -np.exp(values, dtype=np.float64).astype(np.float32)


def delta_sizes(config: JsonObject) -> tuple[int, int, int, int]:
    """Return heads of keys, heads of values, and the elements of a head of each.

    Raises:
        InputError: a head of keys has not as many of values as the others.
    """
    keys = config.integer("linear_num_key_heads", 16, 1, MAX_HEADS)
    values = config.integer("linear_num_value_heads", 32, 1, MAX_HEADS)
    if values % keys:
        raise config.error("linear_num_value_heads", f"expected a multiple of {keys}, found {values}")
    key_size = config.integer("linear_key_head_dim", 128, 1, MAX_SIZE)
    return keys, values, key_size, config.integer("linear_value_head_dim", 128, 1, MAX_SIZE)


def interleaved_delta(config: JsonObject, found: FolderTensor) -> Iterator[FolderTensor]:
    """Qwen3-Next: rows of queries, keys, values and gates, which the folder has for one head of keys after another."""
    name, (keys, values, size, value_size) = found.info.name, delta_sizes(config)
    if not name.endswith("linear_attn.in_proj_qkvz.weight"):
        yield from _linear_attention(config, found, None)
        return
    heights = np.array([size, size, values // keys * value_size, values // keys * value_size])
    _check_rows(config, found, int(keys * heights.sum()))
    of_heads = np.arange(found.info.rows).reshape(keys, -1)
    parts = [part.reshape(-1) for part in np.split(of_heads, np.cumsum(heights)[:-1], axis=1)]
    base = name.removesuffix("in_proj_qkvz.weight")
    yield renamed(with_rows(found, np.concatenate(parts[:3])), f"{base}in_proj_qkv.weight")
    yield renamed(with_rows(found, parts[3]), f"{base}in_proj_z.weight")


def grouped_delta(config: JsonObject, found: FolderTensor) -> Iterator[FolderTensor]:
    """Qwen3.5: heads of values, which the folder has by the heads of keys that they share, and GGUF in turn."""
    keys, values, size, value_size = delta_sizes(config)

    def in_turn(elements: int) -> Order:
        return np.arange(values * elements).reshape(keys, values // keys, elements).swapaxes(0, 1).reshape(-1)

    before = 2 * keys * size
    orders = {
        "in_proj_qkv.weight": np.concatenate([np.arange(before), before + in_turn(value_size)]),
        "conv1d.weight": np.concatenate([np.arange(before), before + in_turn(value_size)]),
        "in_proj_z.weight": in_turn(value_size),
        "out_proj.weight": in_turn(value_size),
        **dict.fromkeys(("in_proj_a.weight", "in_proj_b.weight", "A_log", "dt_bias"), in_turn(1)),
    }
    yield from _linear_attention(config, found, orders.get(found.info.name.rpartition("linear_attn.")[2]))


def _linear_attention(config: JsonObject, found: FolderTensor, order: Order | None) -> Iterator[FolderTensor]:
    """Yield a tensor of a model with a delta net, rows, elements or the columns of `out_proj` in an order."""
    name, shape = found.info.name, found.info.shape
    if "linear_attn." not in name:
        yield from _experts_apart(config, found)
        return
    if order is not None:
        if len(shape) == 1 or name.endswith("out_proj.weight"):
            _check_columns(config, found, len(order))
            found = with_columns(config.path.parent, found, order)
        else:
            _check_rows(config, found, len(order))
            found = with_rows(found, order, *shape)
    if name.endswith(".A_log"):
        found = changed(found, decay)
    elif name.endswith(".dt_bias"):
        found = renamed(found, f"{name.removesuffix('dt_bias')}dt_proj.bias")
    elif name.endswith(".conv1d.weight"):
        found = shaped(found, found.info.rows, shape[-1])
    yield found


def _experts_apart(config: JsonObject, found: FolderTensor) -> Iterator[FolderTensor]:
    """Yield experts' gates and ups, which newer folders have in one tensor, and any other tensor as it is."""
    name = found.info.name
    if not name.endswith(_FUSED_EXPERTS) or len(found.info.shape) != 3:
        yield found
        return
    base = name.removesuffix("gate_up_proj")
    yield from _halves(config, found, f"{base}gate_proj.weight", f"{base}up_proj.weight")


def _halves(config: JsonObject, found: FolderTensor, first: str, second: str) -> Iterator[FolderTensor]:
    """Yield the upper and the lower half of each of a tensor's matrices under names of their own."""
    *count, rows, columns = found.info.shape
    if rows % 2:
        raise InputError(config.path.parent, found.name, f"expected an even number of rows, found {rows}")
    halves = np.arange(found.info.rows).reshape(-1, 2, rows // 2)
    for number, name in enumerate((first, second)):
        yield renamed(with_rows(found, halves[:, number].reshape(-1), *count, rows // 2, columns), name)


def granite_hybrid(config: JsonObject, found: FolderTensor) -> Iterator[FolderTensor]:
    """Granite 4: Mamba 2's tensors, and feed-forwards whose gate and up are one tensor."""
    name, shape = found.info.name, found.info.shape
    layer = ".".join(name.split(".")[:3]).replace("model.layers", "blk")
    experts = "exps" if ".block_sparse_moe." in name else "shexp" if config.values.get("num_local_experts") else ""
    ending = f"{'_' if experts else ''}{experts}.weight"
    if name.endswith((".input_linear.weight", ".experts.gate_up_proj")):
        yield from _halves(config, found, f"{layer}.ffn_gate{ending}", f"{layer}.ffn_up{ending}")
    elif name.endswith((".shared_mlp.output_linear.weight", ".experts.down_proj")):
        yield renamed(found, f"{layer}.ffn_down{ending}")
    elif name.endswith(".mamba.dt_bias"):
        yield renamed(found, f"{name.removesuffix('dt_bias')}dt_proj.bias")
    elif name.endswith(".mamba.A_log"):
        yield shaped(changed(found, decay), *shape, 1)
    elif name.endswith(".mamba.D"):
        yield shaped(found, *shape, 1)
    elif name.endswith(".mamba.conv1d.weight"):
        yield shaped(found, found.info.rows, shape[-1])
    elif name.endswith(".mamba.norm.weight"):
        groups = config.integer("mamba_n_groups", 1, 1, MAX_HEADS)
        if shape[-1] % groups:
            problem = f"expected a multiple of {groups} elements, found {shape[-1]}"
            raise InputError(config.path.parent, found.name, problem)
        yield shaped(found, groups, shape[-1] // groups)
    else:
        yield found


def sparse_convolutions(config: JsonObject, found: FolderTensor) -> Iterator[FolderTensor]:
    """LFM2's mixtures: names that GGUF's package knows in part."""
    name = found.info.name
    if name.endswith(".feed_forward.expert_bias"):
        name += ".bias"
    if name.endswith(".feed_forward.experts.gate_up_proj"):
        base = name.removeprefix("model.").removesuffix("gate_up_proj")
        yield from _halves(config, found, f"{base}w1.weight", f"{base}w3.weight")
        return
    name = name.replace(".feed_forward.experts.down_proj", ".feed_forward.experts.w2.weight")
    yield renamed(found, name.removeprefix("model.") if ".feed_forward.experts." in name else name)


def _check_rows(config: JsonObject, found: FolderTensor, rows: int) -> None:
    if found.info.rows != rows:
        raise InputError(config.path.parent, found.name, f"expected {rows} rows, found {found.info.rows}")


def _check_columns(config: JsonObject, found: FolderTensor, columns: int) -> None:
    if found.info.shape[-1] != columns:
        raise InputError(config.path.parent, found.name, f"expected {columns} columns, found {found.info.shape[-1]}")


REARRANGED: Mapping[str, Callable[[JsonObject, FolderTensor], Iterator[FolderTensor]]] = {
    "grouped_delta": grouped_delta,
    "interleaved_delta": interleaved_delta,
    "granite_hybrid": granite_hybrid,
    "sparse_convolutions": sparse_convolutions,
}
"""By `FolderRow.form`: what a tensor of a folder becomes, by names that GGUF's package knows, or by GGUF's own."""
