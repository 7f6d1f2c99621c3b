"""The tensors of a projector file by their roles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.formats import FORMATS
from ..derived_source import DerivedSource
from ..ggml_types import GgmlType
from ..model_source import ModelSource, TensorInfo
from ..model_tensors import WeightTensor
from .kinds import Kind

OF_OTHERS = ("a.", "mm.a.")
"""What names of tensors begin with that other encoders have in the same file, as those of sound."""

_LAYER: Mapping[str, str] = {
    "norm_1": "ln1.weight",
    "norm_1_bias": "ln1.bias",
    "norm_2": "ln2.weight",
    "norm_2_bias": "ln2.bias",
    "attention_qkv": "attn_qkv.weight",
    "attention_qkv_bias": "attn_qkv.bias",
    "attention_q": "attn_q.weight",
    "attention_q_bias": "attn_q.bias",
    "attention_k": "attn_k.weight",
    "attention_k_bias": "attn_k.bias",
    "attention_v": "attn_v.weight",
    "attention_v_bias": "attn_v.bias",
    "attention_q_norm": "attn_q_norm.weight",
    "attention_k_norm": "attn_k_norm.weight",
    "attention_output": "attn_out.weight",
    "attention_output_bias": "attn_out.bias",
    "attention_after_norm": "attn_post_norm.weight",
    "attention_weights": "ls1.weight",
    "ffn_after_norm": "ffn_post_norm.weight",
    "ffn_weights": "ls2.weight",
    "out_weights": "out_scale.weight",
    "ffn_gate": "ffn_gate.weight",
    "ffn_gate_bias": "ffn_gate.bias",
    "ffn_up": "ffn_up.weight",
    "ffn_up_bias": "ffn_up.bias",
    "ffn_down": "ffn_down.weight",
    "ffn_down_bias": "ffn_down.bias",
}
"""Of a layer: after `v.blk.N.`."""
_DEEPSTACK: Mapping[str, str] = {
    "deepstack_norm": "norm.weight",
    "deepstack_norm_bias": "norm.bias",
    "deepstack_up": "fc1.weight",
    "deepstack_up_bias": "fc1.bias",
    "deepstack_down": "fc2.weight",
    "deepstack_down_bias": "fc2.bias",
}
"""Of a layer: after `v.deepstack.N.`."""
_WHOLE: Mapping[str, str] = {
    "patch": "v.patch_embd.weight",
    "patch_bias": "v.patch_embd.bias",
    "patch_next": "v.patch_embd.weight.1",
    "positions": "v.position_embd.weight",
    "class": "v.class_embd",
    "norm_before": "v.pre_ln.weight",
    "norm_before_bias": "v.pre_ln.bias",
    "norm_after": "v.post_ln.weight",
    "norm_after_bias": "v.post_ln.bias",
}
_QWEN: Mapping[str, str] = {
    "project_up": "mm.0.weight",
    "project_up_bias": "mm.0.bias",
    "project_down": "mm.2.weight",
    "project_down_bias": "mm.2.bias",
}
_PROJECTORS: Mapping[str, Mapping[str, str]] = {
    "gemma3": {"row_norm": "mm.soft_emb_norm.weight", "project": "mm.input_projection.weight"},
    "gemma4v": {"project": "mm.input_projection.weight", "std_bias": "v.std_bias", "std_scale": "v.std_scale"},
    "idefics3": {"project": "mm.model.fc.weight"},
    "pixtral": {
        "row_norm": "mm.input_norm.weight",
        "merger": "mm.patch_merger.weight",
        "project_up": "mm.1.weight",
        "project_up_bias": "mm.1.bias",
        "project_down": "mm.2.weight",
        "project_down_bias": "mm.2.bias",
        "break": "v.token_embd.img_break",
    },
    "internvl": {
        "row_norm": "mm.model.mlp.0.weight",
        "row_norm_bias": "mm.model.mlp.0.bias",
        "project_up": "mm.model.mlp.1.weight",
        "project_up_bias": "mm.model.mlp.1.bias",
        "project_down": "mm.model.mlp.3.weight",
        "project_down_bias": "mm.model.mlp.3.bias",
    },
    **{f"qwen{version}vl_merger": _QWEN for version in ("2", "2.5", "3")},
}
_LARGEST = float(np.finfo(np.float32).max)
_UNREAD = ("break",)
"""Roles of tensors that stand in a text model's vocabulary too, where they are read."""


class FlatSource(DerivedSource):
    """A projector file whose patches' matrices have a row for each output, of all values of a patch.

    Args:
        base: the file.
        tensors: as they are read.
        orders: by name, which of a tensor's rows, or elements, stands at each place of it.
    """

    __slots__ = ("orders",)

    def __init__(
        self,
        base: ModelSource,
        tensors: Mapping[str, TensorInfo],
        orders: Mapping[str, npt.NDArray[np.intp]] = MappingProxyType({}),
    ) -> None:
        super().__init__(base, tensors)
        self.orders = orders

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        if name not in self.orders:
            within = self.base.tensors[name].rows // self.tensors[name].rows
            rows = self.base.read_rows(name, first * within, count * within)
            return rows.reshape(count, -1)
        order, tensor = self.orders[name], self.base.tensors[name]
        if len(tensor.shape) == 1:
            elements = self.base.read_tensor(name).reshape(tensor.shape[0], -1)
            return elements[order].reshape(1, -1)
        wanted = order[first : first + count]
        low = int(wanted.min())
        return self.base.read_rows(name, low, int(wanted.max()) + 1 - low)[wanted - low]

    def with_orders(self, orders: Mapping[str, npt.NDArray[np.intp]]) -> FlatSource:
        """Return the source with rows of some tensors in another order."""
        return FlatSource(self.base, self.tensors, orders)


def whole_head_order(head_dim: int) -> npt.NDArray[np.intp]:
    """Return which element of a head whose pairs are a quarter of it apart, those of the column first, stands at each
    place of one whose pairs are half of it apart, those of the row first."""
    quarters = np.arange(head_dim).reshape(4, -1)
    return quarters[[2, 0, 3, 1]].reshape(-1)


def head_orders(tensors: Mapping[str, WeightTensor], head_dim: int) -> dict[str, npt.NDArray[np.intp]]:
    """Return the orders of rows of queries and keys, and of their norms' weights, as `whole_head_order` has them."""
    own, orders = whole_head_order(head_dim), {}
    for role, one in tensors.items():
        if role.endswith(("attention_q", "attention_k", "attention_q_norm", "attention_k_norm")):
            heads = one.shape[0] // head_dim
            orders[one.name] = (np.arange(heads)[:, None] * head_dim + own).reshape(-1)
    return orders


CLAMPS = ("input_min", "input_max", "output_min", "output_max")


def clamps_of(source: ModelSource, tensors: Mapping[str, WeightTensor]) -> dict[str, tuple[float, ...]]:
    """Return what inputs and products of matrices are held between, by role, in the order of `CLAMPS`.

    Raises:
        InputError: one is not a number.
    """
    found = {}
    for role, one in tensors.items():
        base = one.name.removesuffix(".weight")
        names = [f"{base}.{end}" for end in CLAMPS]
        if base == one.name or not any(name in source.tensors for name in names):
            continue
        numbers = [_LARGEST * (-1 if end.endswith("min") else 1) for end in CLAMPS]
        for index, name in enumerate(names):
            if name in source.tensors:
                tensor = source.tensors[name]
                value = float(source.read_tensor(name).view("<f4")[0]) if _is_number(tensor) else math.nan
                if not math.isfinite(value):
                    raise source.error(name, "expected one finite number of type F32, found otherwise")
                numbers[index] = value
        if numbers[0] > numbers[1] or numbers[2] > numbers[3]:
            raise source.error(names[0], "expected a smallest number below the largest, found otherwise")
        found[role] = tuple(numbers)
    return found


def _is_number(tensor: TensorInfo) -> bool:
    return math.prod(tensor.shape) == 1 and tensor.ggml_type == GgmlType.F32


def flat_source(source: ModelSource) -> FlatSource:
    """Return the source with tensors of more than two dimensions made matrices, of floats alone."""

    def flat(tensor: TensorInfo) -> TensorInfo:
        if len(tensor.shape) <= 2 or not FORMATS[tensor.ggml_type.name].is_float:
            return tensor
        if tensor.name == _WHOLE["positions"]:  # a table for each axis
            return TensorInfo(tensor.name, (tensor.rows, tensor.shape[-1]), tensor.ggml_type)
        return TensorInfo(tensor.name, (tensor.shape[0], math.prod(tensor.shape[1:])), tensor.ggml_type)

    return FlatSource(source, {name: flat(tensor) for name, tensor in source.tensors.items()})


@dataclass(frozen=True, slots=True)
class VisionSizes:
    """Sizes of an encoder.

    Attributes:
        hidden: of a patch's row.
        inner: of the feed-forward.
        heads: of attention.
        layers: of them.
        patch_values: of a patch.
        merged: patches that become one row.
        width: of the text model's rows; 0: as the file has it.
    """

    hidden: int
    inner: int
    heads: int
    layers: int
    patch_values: int
    merged: int
    width: int


def names_of(kind: Kind, layers: int) -> Iterator[tuple[str, str]]:
    """Yield the roles that an encoder may have, and their tensors' names."""
    yield from _WHOLE.items()
    yield from _PROJECTORS[kind.name].items()
    for number in range(layers):
        for role, name in _LAYER.items():
            if kind.rope != "quarters" or not role.startswith("attention_qkv"):  # queries are put in order
                yield f"layers.{number}.{role}", f"v.blk.{number}.{name}"
        if kind.name == "qwen3vl_merger":
            at = f"v.deepstack.{number}."
            yield from ((f"layers.{number}.{role}", at + name) for role, name in _DEEPSTACK.items())


def vision_tensors(source: FlatSource, kind: Kind, sizes: VisionSizes) -> Mapping[str, WeightTensor]:
    """Return the tensors of an encoder by role, each of the shape that it has to have.

    Raises:
        InputError: one is missing, has another shape or type, or nobody would read it.
    """
    names = dict(names_of(kind, sizes.layers))
    if kind.swapped:
        _turn_swapped(source, names, sizes)
    _refuse_others(source, kind, names)
    found: dict[str, WeightTensor] = {}
    for role, name in names.items():
        if name in source.tensors and role not in _UNREAD:
            found[role] = _weight(source, kind, sizes, role, name)
    for role in _required(found, kind, sizes):
        source.tensor(names[role])  # says so where there is none
    return found


def _turn_swapped(source: ModelSource, names: dict[str, str], sizes: VisionSizes) -> None:
    """Give the feed-forward's matrices their right names in files whose names are the wrong way round."""
    tensor = source.tensors.get(names["layers.0.ffn_down"])
    if tensor is None or tensor.shape[-1] != sizes.hidden or sizes.hidden == sizes.inner:
        return
    for number in range(sizes.layers):
        for end in ("", "_bias"):
            up, down = (f"layers.{number}.ffn_{one}{end}" for one in ("up", "down"))
            names[up], names[down] = names[down], names[up]


def _refuse_others(source: ModelSource, kind: Kind, names: Mapping[str, str]) -> None:
    known = set(names.values())
    if kind.name == "gemma4v":
        known |= {f"{name.removesuffix('.weight')}.{end}" for name in known for end in CLAMPS}
    for name in source.tensors:
        if name not in known and not name.startswith(OF_OTHERS):
            raise source.error(name, f"expected no such tensor in an encoder of kind {kind.name}, found it")


def _weight(source: FlatSource, kind: Kind, sizes: VisionSizes, role: str, name: str) -> WeightTensor:
    tensor, short = source.tensors[name], role.rsplit(".", 1)[-1]
    if kind.name == "gemma3" and short == "project":  # it stands the other way round
        columns = sizes.width or tensor.shape[-1]
        _check(source, tensor, ((sizes.hidden, columns),))
        return WeightTensor(
            tensor, (tensor.shape[1], tensor.shape[0]), 0, "transposed", 1, tensor.shape[0], tensor.shape[0]
        )
    shapes = _shapes(sizes, short, tensor)
    _check(source, tensor, shapes)
    return WeightTensor(tensor, shapes[0] if len(shapes) == 1 else tensor.shape)


def _check(source: ModelSource, tensor: TensorInfo, shapes: Sequence[tuple[int, ...]]) -> None:
    shape = tensor.shape if len(shapes[0]) == len(tensor.shape) else (math.prod(tensor.shape),)
    if shape not in shapes:
        wanted = " or ".join(str(list(one)) for one in shapes)
        raise source.error(tensor.name, f"expected shape {wanted}, found {list(tensor.shape)}")
    known = [GgmlType[name] for name in FORMATS if len(shape) == 2 or FORMATS[name].is_float]
    if tensor.ggml_type not in known:
        names = ", ".join(one.name for one in known)
        raise source.error(tensor.name, f"expected a type of {names}, found {tensor.ggml_type.name}")


def _shapes(sizes: VisionSizes, role: str, tensor: TensorInfo) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that a role's tensor may have."""
    hidden, inner, merged = sizes.hidden, sizes.inner, sizes.hidden * sizes.merged
    rows = tensor.shape[0]
    width = sizes.width or rows
    if role in ("attention_q_norm", "attention_k_norm"):
        return (hidden // sizes.heads,), (hidden,)
    known: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("patch", "patch_next"), (hidden, sizes.patch_values)),
        "positions": (rows, hidden),
        "attention_qkv": (3 * hidden, hidden),
        "attention_qkv_bias": (3 * hidden,),
        **dict.fromkeys(("attention_q", "attention_k", "attention_v", "attention_output"), (hidden, hidden)),
        **dict.fromkeys(("ffn_gate", "ffn_up"), (inner, hidden)),
        **dict.fromkeys(("ffn_gate_bias", "ffn_up_bias"), (inner,)),
        "ffn_down": (hidden, inner),
        "merger": (hidden, merged),
        "deepstack_up": (rows, merged),
        **dict.fromkeys(("deepstack_norm", "deepstack_norm_bias"), (merged,)),
        **dict.fromkeys(("deepstack_up_bias", "project_up_bias"), (rows,)),
        **dict.fromkeys(("project_down_bias", "deepstack_down_bias"), (width,)),
    }
    if role == "project":
        return (rows, merged), (rows, hidden)
    if role in ("project_down", "deepstack_down"):
        return ((width, tensor.shape[-1]),)
    if role == "project_up":
        return (rows, merged), (rows, hidden)
    if role in ("row_norm", "row_norm_bias"):
        return (hidden,), (merged,)
    return (known.get(role, (hidden,)),)


def _required(found: Mapping[str, WeightTensor], kind: Kind, sizes: VisionSizes) -> Iterator[str]:
    """Yield the roles that have to be there."""
    yield "patch"
    if kind.frames:
        yield "patch_next"
    if kind.positions != "none":
        yield "positions"
    optional = {"project_up_bias", "project_down_bias"} if kind.name == "pixtral" else {"std_bias", "std_scale"}
    if kind.name == "pixtral":
        optional |= {"merger", "row_norm", "break"}
        if "merger" in found:
            yield "row_norm"
    yield from (role for role in _PROJECTORS[kind.name] if role not in optional)
    for number in range(sizes.layers):
        prefix = f"layers.{number}."
        yield from (prefix + role for role in ("norm_1", "norm_2", "attention_output", "ffn_up", "ffn_down"))
        if prefix + "attention_qkv" not in found:
            yield from (f"{prefix}attention_{one}" for one in "qkv")
        if any(prefix + role in found for role in _DEEPSTACK):
            yield from (prefix + role for role in _DEEPSTACK)
