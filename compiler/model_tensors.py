"""The tensors of a model by their roles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..artifacts.dataclass import dataclass
from ..artifacts.formats import FORMATS
from .architectures import ARCHITECTURES
from .arrays import np
from .ggml_types import GgmlType as Quant
from .graph import Weight
from .model_config import ModelConfig
from .model_source import ModelSource, TensorInfo
from .models.architecture import MADE, Architecture, Shapes, WeightForm
from .read_head import TENSORS as HEAD_TENSORS
from .read_head import head_shapes

if TYPE_CHECKING:
    import numpy.typing as npt

MATRIX_TYPES = tuple(Quant[name] for name in FORMATS)
VECTOR_TYPES = tuple(kind for kind in MATRIX_TYPES if FORMATS[kind.name].is_float)

# Tensors with these endings change the result: one that no role names must not be passed over.
_QUERY = ("attention_q_own", "attention_q_tail")  # heads apart, in a matrix of all
_EXPANDING = "blk.{layer}.attn_kv_b.weight"  # of older files, and of folders: it makes keys and values of a latent
_MEANINGFUL_ENDINGS = (".bias", ".scale")


_Fused = list[tuple[str, tuple[str, ...]]]
"""Names of tensors, without their ending, and the roles whose rows each holds."""


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """The tensor that holds a weight: all of it, or some of its rows.

    Attributes:
        tensor: as the source has it.
        shape: of the weight, [rows, columns] or [elements].
        first: row of the tensor, or element, that the weight begins with.
        form: see `Architecture.forms`.
        every: rows of the tensor from one expert's first, or head's, to the next one's, where others' stand between; 0:
            none do.
        height: of each expert's rows, or head's.
            Of form "slopes" `first` is the layer, and `every` how many there are.
        repeat: how often each row, or element, stands in the weight, one behind the other.
    """

    tensor: TensorInfo
    shape: tuple[int, ...]
    first: int = 0
    form: WeightForm = "stored"
    repeat: int = 1
    every: int = 0
    height: int = 0

    @property
    def name(self) -> str:
        """Return the tensor's name."""
        return self.tensor.name

    @property
    def ggml_type(self) -> Quant:
        """Return the type of what is stored; blocks cannot be turned round, and become floats that hold them."""
        if self.form != "transposed":
            return self.tensor.ggml_type
        return Quant.F32 if self.tensor.ggml_type in (Quant.F32, Quant.BF16) else Quant.F16

    def row_numbers(self) -> npt.NDArray[np.intp]:
        """Return which rows of the tensor are the weight's, in order, where none is repeated."""
        rows = np.arange(self.shape[0])
        if self.every:
            rows = rows // self.height * self.every + rows % self.height
        return self.first + rows

    def read(self, source: ModelSource) -> npt.NDArray[np.uint8]:
        """Copy the weight's bytes.

        Returns:
            uint8[rows, bytes of a row], or uint8[bytes] of a vector.

        Raises:
            InputError: as `ModelSource.read_rows`.
        """
        if len(self.shape) == 2:
            return self.read_rows(source, 0, self.shape[0])
        count = self.shape[0] // self.repeat
        size = self.tensor.n_bytes // math.prod(self.tensor.shape)
        elements = source.read_tensor(self.name).reshape(-1, size)
        elements = elements[self.row_numbers()] if self.every else elements[self.first : self.first + count]
        return np.repeat(elements, self.repeat, axis=0).reshape(-1)

    def read_rows(self, source: ModelSource, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Copy rows of a matrix, uint8[count, bytes of a row]; raises as `read`."""
        if self.form == "transposed":
            return self._turned_rows(source, first, first + count)
        if self.every:
            return np.concatenate(list(self._experts_rows(source, first, first + count)))
        start, end = first // self.repeat, -(-(first + count) // self.repeat)
        rows = source.read_rows(self.name, self.first + start, end - start)
        if self.repeat == 1:
            return rows
        return np.repeat(rows, self.repeat, axis=0)[first - start * self.repeat :][:count]

    def _experts_rows(self, source: ModelSource, first: int, end: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield rows from `first` to `end`, those of one expert at a time."""
        while first < end:
            expert, row = divmod(first, self.height)
            count = min(self.height - row, end - first)
            yield source.read_rows(self.name, self.first + expert * self.every + row, count)
            first += count

    def _turned_rows(self, source: ModelSource, first: int, end: int) -> npt.NDArray[np.uint8]:
        """Return rows from `first` to `end` of heads' matrices turned round."""
        from .floats import read_float_rows  # noqa: PLC0415 - a glance at a model does without NumPy

        rank, kind = self.tensor.shape[-1], np.float32 if self.ggml_type == Quant.F32 else np.float16
        heads = range(first // rank, -(-end // rank))
        found = [
            read_float_rows(source, self.name, self.first + head * self.every, self.height).T.astype(kind)
            for head in heads
        ]
        rows = np.concatenate(found)[first - heads.start * rank : end - heads.start * rank]
        return np.ascontiguousarray(rows).view(np.uint8)


class _Place(NamedTuple):
    """Where a weight is looked for: in a tensor of that name, whose own shape is `whole`."""

    role: str
    name: str
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    first: int
    optional: bool
    form: WeightForm = "stored"
    repeat: int = 1
    every: int = 0
    height: int = 0


def weight_tensors(source: ModelSource, config: ModelConfig) -> Mapping[str, WeightTensor]:
    """Return the model's tensors by role: `token_embedding`, `layers.0.attention_q` and so on.

    Raises:
        InputError: one is missing.
    """
    return _found(source, config, _places(source, config))


def _found(source: ModelSource, config: ModelConfig, places: Iterable[_Place]) -> Mapping[str, WeightTensor]:
    """Return what `weight_tensors` does, of these places."""
    found: dict[str, WeightTensor] = {}
    unread = ARCHITECTURES[config.architecture].unread
    for place in places:
        if place.form in MADE:
            none = TensorInfo("", place.shape, Quant.F32)
            found[place.role] = WeightTensor(none, place.shape, place.first, place.form, every=place.every)
        elif place.role.rsplit(".", 1)[-1] not in unread and (place.name in source.tensors or not place.optional):
            tensor = source.tensor(place.name)
            found[place.role] = WeightTensor(
                tensor, place.shape, place.first, place.form, place.repeat, place.every, place.height
            )
    return found


def unused_tensors(source: ModelSource, config: ModelConfig) -> tuple[str, ...]:
    """Return the names of tensors that the model does not use, in the file's order."""
    return _unused(source, _places(source, config))


def _unused(source: ModelSource, places: Iterable[_Place]) -> tuple[str, ...]:
    """Return what `unused_tensors` does, of these places."""
    used = {place.name for place in places}
    return tuple(name for name in source.tensors if name not in used)


def weights_by_role(source: ModelSource, config: ModelConfig) -> Mapping[str, Weight]:
    """Return every weight of the model by its role, with the tables by position, which the compiler makes itself."""
    weights = {role: Weight(role, table.shape(config.max_seq_len), "F32") for role, table in config.tables().items()}
    for role, tensor in weight_tensors(source, config).items():
        weights[role] = Weight(role, tensor.shape, tensor.ggml_type.name)
    return weights


def _places(source: ModelSource, config: ModelConfig) -> Iterator[_Place]:
    """Yield where each weight of the model is looked for: those of no layer first, then layer by layer."""
    row = ARCHITECTURES[config.architecture]
    for role, shape in head_shapes(config.head, config.hidden_size, source).items():
        name = HEAD_TENSORS[role]
        yield _Place(role, name, shape, source.tensors[name].shape, 0, False)
    for number in (None, *range(config.num_layers)):
        shapes, fused = row.shapes(config, config.layer(number or 0)), _fused(source, row, number or 0)
        prefix = "" if number is None else f"layers.{number}."
        for role in row.tensors:
            if role in shapes and row.is_layer_role(role) == (number is not None):
                base = _shared_by_heads(row, shapes, role)
                if row.forms.get(role) == "slopes":
                    own, shape, layers = prefix + role, shapes[role], config.num_layers
                    yield _Place(own, "", shape, shape, number or 0, False, "slopes", every=layers)
                elif base:
                    yield from _heads_places(config, row, shapes, role, base, number or 0)
                else:
                    yield from _places_of(source, row, shapes, fused, role, number or 0, prefix)


def _fused(source: ModelSource, row: Architecture, layer: int) -> _Fused:
    """Return `Architecture.fused` of a layer, of those tensors that the source has."""
    named = ((template.replace("{layer}", str(layer)), roles) for template, roles in row.fused.items())
    return [(base, roles) for base, roles in named if f"{base}.weight" in source.tensors]


def _places_of(
    source: ModelSource, row: Architecture, shapes: Shapes, fused: _Fused, role: str, layer: int, prefix: str
) -> Iterator[_Place]:
    """Yield the places of a weight, of its bias, and of the scale that multiplies the products of a matrix."""
    shape, name = shapes[role], row.tensor_name(role, layer)
    own, optional = prefix + role, role in row.optional
    form = row.forms.get(role, "stored")
    expanding = _EXPANDING.replace("{layer}", str(layer))
    if role in ("attention_k_b", "attention_v_b") and name not in source.tensors and expanding in source.tensors:
        yield from _latent_places(shapes, role, own, expanding)
        return
    if len(shape) == 3:
        yield from _experts_places(source, row, shapes, fused, role, layer, prefix)
        return
    if role == "shared_gate":
        yield _Place(own, name, shape, shape[1:], 0, optional)
        return
    if form == "first_row":
        stored = source.tensors.get(name)
        whole = (stored.shape[0], *shape) if stored is not None and len(stored.shape) == 2 else shape
        yield _Place(own, name, shape, whole, 0, optional, form)
        return
    if form != "stored" or not name.endswith(".weight"):
        repeat = shapes["attention_q"][0] // shapes["attention_sinks"][0] if form == "repeated" else 1
        if name in source.tensors and source.tensors[name].rows == shape[0]:
            repeat = 1
        yield _Place(own, name, shape, (shape[0] // repeat, *shape[1:]), 0, optional, form, repeat)
        if len(shape) == 2:
            yield _Place(f"{own}_scale", f"{name.removesuffix('.weight')}.scale", (1,), (1,), 0, True)
        return
    base, roles = _holder(source, row, shapes, fused, role, layer)
    first, rows = sum(shapes[one][0] for one in roles[: roles.index(role)]), sum(shapes[one][0] for one in roles)
    yield _Place(own, f"{base}.weight", shape, (rows, *shape[1:]), first, optional)
    if len(shape) == 2 and not (role == "expert_router" and "router_factors" in shapes):
        yield _Place(f"{own}_scale", f"{base}.scale", (1,), (1,), 0, True)
    if len(roles) > 1 and f"{base}.bias" not in source.tensors:
        base, first, rows = name.removesuffix(".weight"), 0, shape[0]
    yield _Place(f"{own}_bias", f"{base}.bias", shape[:1], (rows,), first, True)


def _shared_by_heads(row: Architecture, shapes: Shapes, role: str) -> str:
    """Return the name of the tensor that has a role's rows head by head, beside those of others; "" where none has."""
    found = (base for base, roles in row.interleaved.items() if role in roles and set(roles) <= set(shapes))
    return next(found, "")


def _heads_places(
    config: ModelConfig, row: Architecture, shapes: Shapes, role: str, base: str, layer: int
) -> Iterator[_Place]:
    """Yield the places of a weight whose rows stand head by head beside those of others, and of its scale."""
    roles, has = row.interleaved[base], config.layer(layer)
    heads = config.recurrence.heads if config.recurrence and has.recurrent else has.num_heads
    heights = [shapes[one][0] // heads for one in roles]
    index, every = roles.index(role), sum(heights)
    own, name, shape = f"layers.{layer}.{role}", base.replace("{layer}", str(layer)), shapes[role]
    first, height = sum(heights[:index]), heights[index]
    whole = (heads * every, shape[1])
    yield _Place(own, f"{name}.weight", shape, whole, first, False, every=every, height=height)
    yield _Place(f"{own}_scale", f"{name}.scale", (1,), (1,), 0, True)


def _experts_places(
    source: ModelSource, row: Architecture, shapes: Shapes, fused: _Fused, role: str, layer: int, prefix: str
) -> Iterator[_Place]:
    """Yield the places of all experts' matrices of a role, stacked, of their biases, and of their scales."""
    experts, rows, columns = shapes[role]
    base, roles = _holder(source, row, shapes, fused, role, layer)
    heights = {one: shapes[one][1] for one in roles if one in shapes}
    first = sum(heights[one] for one in roles[: roles.index(role)] if one in heights)
    every = sum(heights.values())
    apart = (every, rows) if len(roles) > 1 else (0, 0)
    own, shape = prefix + role, (experts * rows, columns)
    yield _Place(own, f"{base}.weight", shape, (experts, every, columns), first, False, "stored", 1, *apart)
    if len(roles) == 1:
        yield _Place(f"{own}_bias", f"{base}.bias", shape[:1], (experts, rows), 0, True)
    if role in _QUERY:
        yield _Place(f"{own}_bias", f"{base}.bias", shape[:1], (experts * every,), first, True, "stored", 1, *apart)
    scales = 1 if role in _QUERY else experts
    yield _Place(f"{own}_scale", f"{base}.scale", (scales,), (scales,), 0, True)


def _latent_places(shapes: Shapes, role: str, own: str, name: str) -> Iterator[_Place]:
    """Yield the place of a weight of latent attention in a tensor that has each head's rows of keys, then of values."""
    heads, values, rank = shapes["attention_v_b"]
    keys = shapes.get("attention_k_b", (0,))[-1]
    whole, every = (heads * (keys + values), rank), keys + values
    if role == "attention_k_b":
        yield _Place(own, name, (heads * rank, keys), whole, 0, False, "transposed", 1, every, keys)
    else:
        yield _Place(own, name, (heads * values, rank), whole, keys, False, "stored", 1, every, values)


def _holder(
    source: ModelSource, row: Architecture, shapes: Shapes, fused: _Fused, role: str, layer: int
) -> tuple[str, tuple[str, ...]]:
    """Return the tensor, without its ending, that holds the rows of a role, and whose rows it holds."""

    def named(one: str) -> str:
        return row.tensor_name(one, layer).removesuffix(".weight")

    for base, roles in fused:
        if role not in roles or f"{named(roles[0])}.weight" in source.tensors:
            continue
        own = {named(one) for one in roles if one in row.tensors}
        # `ffn_up` may be the tensor of up alone, or of gate and up.
        if base not in own or source.tensors[f"{base}.weight"].shape[0] == sum(shapes[one][0] for one in roles):
            return base, roles
    return named(role), (role,)


def check_tensors(source: ModelSource, config: ModelConfig) -> None:
    """Check shapes and types against what the hyperparameters imply.

    Raises:
        InputError: one is missing, or has others, or nobody would read it though it changes the result.
    """
    places = tuple(_places(source, config))
    tensors = _found(source, config, places)
    for place in places:
        if place.role not in tensors or place.form in MADE:
            continue
        tensor = source.tensors[place.name]
        flat = (math.prod(tensor.shape),) if len(place.whole) == 1 else (tensor.rows, tensor.shape[-1])
        whole = (math.prod(place.whole[:-1]), place.whole[-1]) if len(place.whole) == 3 else place.whole
        if place.whole != tensor.shape and whole != flat:
            raise source.error(place.name, f"expected shape {list(place.whole)}, found {list(tensor.shape)}")
        known: tuple[Quant, ...] = MATRIX_TYPES if len(place.shape) == 2 else VECTOR_TYPES
        if place.role.startswith("rope_factors") or place.form == "inverted":
            known = (Quant.F32,)
        if tensor.ggml_type not in known:
            names = ", ".join(kind.name for kind in known)
            raise source.error(place.name, f"expected a type of {names}, found {tensor.ggml_type.name}")
    for role, weight in tensors.items():
        if role.startswith("rope_factors") or weight.form == "inverted":
            divisors = source.read_tensor(weight.name).view("<f4")
            if not (np.isfinite(divisors) & (divisors != 0)).all():
                raise source.error(weight.name, "expected finite divisors other than 0, found others")
    for name in _unused(source, places):
        if name.endswith(_MEANINGFUL_ENDINGS) and not _drafts(name, config):
            raise source.error(name, f"expected no such tensor in a {config.architecture} model, found it")


def _drafts(name: str, config: ModelConfig) -> bool:
    """Return whether a tensor is of a block that drafts tokens."""
    numbers = range(config.num_layers, config.num_layers + config.draft_layers)
    return any(name.startswith(f"blk.{number}.") for number in numbers)
