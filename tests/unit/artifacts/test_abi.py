"""What the runtime hands to kernels: the tables against a C compiler and against each other."""

from __future__ import annotations

import ctypes
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.abi import ROW_SCALARS, SAMPLING, STEP, c_header, ctypes_fields, fields_of, numpy_fields
from rocmforge.compiler.build import find_toolchain
from rocmforge.compiler.render import kernel_headers
from rocmforge.compiler.target import TARGETS
from rocmforge.runtime.device.batch import RowSampling

STRUCTS = {"step": STEP, "sampling": SAMPLING}


@pytest.mark.parametrize("backend", ["host", "hip"])
@pytest.mark.parametrize("name", STRUCTS)
def test_numpy_and_ctypes_have_the_same_offsets(name: str, backend: str) -> None:
    """What the compiler makes of the header is in `test_the_header_is_what_ctypes_has`."""
    struct = STRUCTS[name]
    record = np.dtype(numpy_fields(struct, backend))
    native = type(name, (ctypes.Structure,), {"_fields_": ctypes_fields(struct, backend)})
    assert record.fields is not None
    assert record.itemsize == ctypes.sizeof(native)
    for field in fields_of(struct, backend):
        assert record.fields[field.name][1] == getattr(native, field.name).offset, field.name


@pytest.mark.parametrize("backend", ["host", "hip"])
def test_the_header_is_what_ctypes_has(backend: str, tmp_path: Path) -> None:
    """A C compiler finds each field where ctypes puts it."""
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#define static_assert _Static_assert"]
    lines += ["#define CONSTANT_MEMORY", "#define GLOBAL_MEMORY", c_header(backend)]
    for name, struct in STRUCTS.items():
        native = type(name, (ctypes.Structure,), {"_fields_": ctypes_fields(struct, backend)})
        for field in fields_of(struct, backend):
            at, size = getattr(native, field.name).offset, getattr(native, field.name).size
            lines.append(f'_Static_assert(offsetof(struct {name}, {field.name}) == {at}, "{field.name}");')
            lines.append(f'_Static_assert(sizeof(((struct {name} *)0)->{field.name}) == {size}, "{field.name}");')
    source = tmp_path / "abi.c"
    source.write_text("\n".join(lines) + "\n")
    target = TARGETS["host"]
    find_toolchain("auto", target).compile(source, tmp_path / "abi.o", tmp_path, target.variants[-1])


def test_each_backend_gets_its_header() -> None:
    for backend in ("host", "hip"):
        assert kernel_headers(backend)["abi.h"] == c_header(backend)
    host, hip = c_header("host"), c_header("hip")
    assert "    uint32_t *mask; /* bit i % 32 of word i / 32: token i is allowed; null: all are */\n" in host
    assert "    const GLOBAL_MEMORY int32_t *seen_tokens; /* [num_seen] */\n" in hip
    assert "    const CONSTANT_MEMORY struct sampling *sampling; /* [R] */\n" in hip
    assert "    uint64_t seed;\n" in host
    assert (" number;" in host, "mask_image" in host, "MEMORY" in host) == (False, False, False)


def test_a_row_has_each_scalar_that_is_copied() -> None:
    assert set(ROW_SCALARS) <= {field.name for field in fields(RowSampling)}
    values = {field.name for field in SAMPLING if field.pointer is None}
    assert values - set(ROW_SCALARS) == {"num_seen", "num_biases"}
