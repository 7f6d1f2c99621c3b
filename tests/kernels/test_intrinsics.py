"""The intrinsics that stand in kernels/host/intrinsics.h make the code that the compiler's own header makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.compiler.host_toolchain import find_host_toolchain
from rocmforge.compiler.render import kernel_headers
from rocmforge.compiler.target import TARGETS
from rocmforge.compiler.toolchain import run_compiler

# All that a level's header offers, each in a function of its own.
OFFERED = """\
#include "vector.h"
f32x16 fma_of(f32x16 a, f32x16 b, f32x16 c) { return vector_fma(a, b, c); }
f32x16 max_of(f32x16 a, f32x16 b) { return vector_max(a, b); }
f32x16 f16_from(const void *p) { return load_f16(p); }
void f16_to(void *p, f32x16 v) { store_f16(p, v); }
i32x16 u8_from(const void *p) { return load_u8(p); }
i32x16 i8_from(const void *p) { return load_i8(p); }
i32x16 unsigned_dot(i32x16 sums, u8x64 w, const int8_t *x) { return dot_unsigned(sums, w, x); }
u8x64 one_table(u8x16 table, u8x64 codes) { return look_up(table, codes); }
u8x64 four_tables(u8x64 tables, u8x64 codes) { return look_up_rows(tables, codes); }
int32_t largest_of(i32x16 v) { return horizontal_max_int(v); }
#ifdef __AMX_INT8__
void panel_of(const u8x64 *w, const int8_t *x, size_t stride, i32x16 dots[2][PANEL_TOKENS])
{
    begin_panels();
    multiply_panel(w, x, stride, dots);
    end_panels();
}
#endif
#if SIGNED_DOT
i32x16 dot_with_signs(i32x16 sums, u8x64 w, const int8_t *x) { return dot_signed(sums, w, x); }
#endif
"""


def assembly(folder: Path, level: str, headers: dict[str, str]) -> str:
    """What the pinned compiler makes of all that a level offers."""
    folder.mkdir()
    for name, text in headers.items():
        (folder / name).write_text(text)
    (folder / "offered.c").write_text(OFFERED)
    toolchain = find_host_toolchain()
    variant = next(one for one in TARGETS["host"].variants if one.level == level)
    flags = (*toolchain.flags(variant), "-Wno-psabi", "-I.")
    run_compiler((*toolchain.compiler, *flags, "-S", "offered.c", "-o", "offered.s"), folder)
    read = run_compiler((*toolchain.compiler, *flags, "-M", "offered.c"), folder)
    assert ("immintrin.h" in read) == ("<immintrin.h>" in headers["vector.h"])
    return (folder / "offered.s").read_text()


@pytest.mark.parametrize("level", ["x86_64_amx", "x86_64_v4", "x86_64_v3"])
def test_they_make_the_same_code(level: str, tmp_path: Path) -> None:
    headers = dict(kernel_headers("host"))
    ours = assembly(tmp_path / "ours", level, headers)
    theirs = {**headers, "intrinsics.h": "", "vector.h": "#include <immintrin.h>\n" + headers["vector.h"]}
    assert assembly(tmp_path / "theirs", level, theirs) == ours
    assert ours.count("retq") >= 10
