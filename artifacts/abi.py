"""What the runtime hands to kernels: a step, and how its tokens are drawn, as tables of fields.

The C header of each back end and the types of ctypes and NumPy are made of these tables: a field is added here alone,
and the version of the back end's ABI is raised with it, here too. A field at the end of `STEP` that only kernels of
layouts read which older runtimes refuse raises none: code of before stays as good as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Final

from .dataclass import dataclass

BACKENDS: Final = ("host", "hip")

HOST_ABI_VERSION: Final = 4
"""Of kernels/host/common.h and program.h: raised with any change to a structure or signature there."""

OLDEST_HOST_ABI_VERSION: Final = 3
"""Of which code still runs, raised too where that of before would not: 3 makes outputs of all tokens."""

HIP_ABI_VERSION: Final = 3
"""Of kernels/hip: raised with any change to the step, the sampling or the arguments of a kernel."""


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a struct.

    Attributes:
        name: in C and in Python.
        kind: `float`, `int32_t`, `uint32_t`, `uint64_t` or `struct sampling`: the value, or what it points to.
        comment: for the header: shape, unit, what a special value means.
        pointer: where that lies: `constant` is read through the GPU's scalar cache, `global` is not; None: a value.
        written: by kernels.
        backends: that have it.
    """

    name: str
    kind: str
    comment: str = ""
    pointer: str | None = None
    written: bool = False
    backends: tuple[str, ...] = BACKENDS


_CONSTANT, _GLOBAL, _GPU, _HOST = "constant", "global", ("hip",), ("host",)

SAMPLING: Final = (
    Field("temperature", "float", "0: the most likely token"),
    Field("top_p", "float", "1: off"),
    Field("min_p", "float", "0: off"),
    Field("top_k", "int32_t", "0: off"),
    Field("repetition_penalty", "float", "1: off"),
    Field("presence_penalty", "float", "0: off"),
    Field("frequency_penalty", "float", "0: off"),
    Field("num_seen", "int32_t", "distinct tokens of prompt and output"),
    Field("seen_tokens", "int32_t", "[num_seen]", _GLOBAL),
    Field("seen_counts", "int32_t", "[num_seen] occurrences in the output alone", _GLOBAL),
    Field("seed", "uint64_t"),
    Field("counter", "uint64_t", "index of the token within its request: one draw a token"),
    Field("mask", "uint32_t", "bit i % 32 of word i / 32: token i is allowed; null: all are", _GLOBAL, written=True),
    Field("mask_image", "uint32_t", "as the host wrote it, in its pinned memory", _GLOBAL, backends=_GPU),
    Field("typical_p", "float", "1: off"),
    Field("num_biases", "int32_t"),
    Field("bias_tokens", "int32_t", "[num_biases], distinct", _GLOBAL),
    Field("biases", "float", "[num_biases] added to their logits", _GLOBAL),
    Field("originals", "float", "[num_seen + num_biases] to leave the logits as they were; null: not", _GLOBAL, True),
)
"""How one row of logits is turned into a token: `struct sampling`."""

ROW_SCALARS: Final = tuple(
    field.name for field in SAMPLING if field.pointer is None and field.name not in ("num_seen", "num_biases")
)
"""Its fields that are `RowSampling`'s as they stand."""

STEP: Final = (
    Field("num_tokens", "int32_t", "T"),
    Field("num_logits", "int32_t", "R"),
    Field("blocks_per_row", "int32_t", "P, the row stride of block_table"),
    Field("n_bytes", "int32_t", "of this and all it points to but masks, a multiple of 8; on the host 0"),
    Field("token_ids", "int32_t", "[T]", _CONSTANT),
    Field("positions", "int32_t", "[T] position within its sequence", _CONSTANT),
    Field("rows", "int32_t", "[T] row of block_table", _CONSTANT),
    Field("block_table", "int32_t", "[S, P] physical block numbers", _CONSTANT),
    Field("logits_rows", "int32_t", "[R] indices of tokens", _CONSTANT),
    Field("sampling", "struct sampling", "[R]", _CONSTANT),
    Field("sampled", "int32_t", "[R], out", _GLOBAL, written=True),
    Field("number", "uint64_t", "of the step, counted by the host", backends=_GPU),
    Field("adapter_scales", "float", "[S, adapters]; 0: not in use; null: none is", _CONSTANT),
    Field("num_sequences", "int32_t", "S; 0 where the model has no state, and the next three are null"),
    Field("sequence_starts", "int32_t", "[S + 1] first token of each sequence, then T", _CONSTANT),
    Field("state_from", "int32_t", "[S] slot that it goes on from; -1: from its beginning, all zero", _CONSTANT),
    Field("state_to", "int32_t", "[T] slot that takes the state after this token; -1: none", _CONSTANT),
    Field("input_rows", "float", "[N, width] given from outside; a GPU's: in the host's pinned memory", _GLOBAL),
    Field("row_of", "int32_t", "[T] row of these that a token takes; -1: none; null: no token takes any", _CONSTANT),
    Field(
        "rope_positions",
        "int32_t",
        "[4, T] time, height, width, extra, by which it rotates; null: positions",
        _CONSTANT,
    ),
    Field(
        "output_rows",
        "int32_t",
        "[N] tokens of which outputs are read, ascending; null: all",
        _CONSTANT,
        backends=_HOST,
    ),
    Field("num_outputs", "int32_t", "N", backends=_HOST),
)
"""One step over a batch of T tokens, S sequences and R rows of logits: `struct step`."""

_CTYPES: Final[dict[str, Any]] = {
    "float": ctypes.c_float,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
}
_NUMPY: Final = {"float": "<f4", "int32_t": "<i4", "uint32_t": "<u4", "uint64_t": "<u8"}
_SPACES: Final = {"host": {}, "hip": {_CONSTANT: "CONSTANT_MEMORY ", _GLOBAL: "GLOBAL_MEMORY "}}


def fields_of(struct: tuple[Field, ...], backend: str) -> Iterator[Field]:
    """Return the fields that a back end has."""
    return (field for field in struct if backend in field.backends)


def ctypes_fields(struct: tuple[Field, ...], backend: str) -> list[tuple[str, Any]]:
    """Return the fields for `_fields_` of a `ctypes.Structure`; a pointer is a `c_void_p`."""
    return [
        (field.name, _CTYPES[field.kind] if field.pointer is None else ctypes.c_void_p)
        for field in fields_of(struct, backend)
    ]


def _native(struct: tuple[Field, ...], backend: str) -> type[ctypes.Structure]:
    return type("native", (ctypes.Structure,), {"_fields_": ctypes_fields(struct, backend)})


def numpy_fields(struct: tuple[Field, ...], backend: str) -> Any:
    """Return the fields for `numpy.dtype`, each where C has it; a pointer is an unsigned number of 8 bytes."""
    native, fields = _native(struct, backend), list(fields_of(struct, backend))
    return {
        "names": [field.name for field in fields],
        "formats": [_NUMPY[field.kind] if field.pointer is None else "<u8" for field in fields],
        "offsets": [getattr(native, field.name).offset for field in fields],
        "itemsize": ctypes.sizeof(native),
    }


def c_header(backend: str) -> str:
    """Return the structs in C, as `abi.h` of a back end's headers. What includes it has the integer types."""
    version = f"#define ABI_VERSION {HOST_ABI_VERSION}\n\n" if backend == "host" else ""
    return (
        f"/* Made of artifacts/abi.py. */\n#ifndef ROCMFORGE_ABI_H\n#define ROCMFORGE_ABI_H\n\n{version}"
        f"{_c_struct('sampling', SAMPLING, backend)}\n{_c_struct('step', STEP, backend)}\n#endif\n"
    )


def _c_struct(name: str, struct: tuple[Field, ...], backend: str) -> str:
    lines = [_c_field(field, backend) for field in fields_of(struct, backend)]
    size = ctypes.sizeof(_native(struct, backend))
    check = "_Static_assert" if backend == "host" else "static_assert"
    body = "\n".join(lines)
    return f'struct {name} {{\n{body}\n}};\n{check}(sizeof(struct {name}) == {size}, "as artifacts/abi.py has it");\n'


def _c_field(field: Field, backend: str) -> str:
    comment = f" /* {field.comment} */" if field.comment else ""
    if field.pointer is None:
        return f"    {field.kind} {field.name};{comment}"
    const = "" if field.written else "const "
    return f"    {const}{_SPACES[backend].get(field.pointer, '')}{field.kind} *{field.name};{comment}"
