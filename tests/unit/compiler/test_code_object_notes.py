"""Linked objects are described by one metadata note: what ROCm's loader, and the emulator, read is the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.artifacts.code_object import read_code_object
from rocmforge.compiler.code_object_notes import merge_metadata_notes
from rocmforge.compiler.hip_toolchain import find_clang
from rocmforge.compiler.target import TARGETS
from rocmforge.tools.emulator.code_object import parse

SOURCE = (
    'extern "C" __attribute__((global)) void NAME(int *p) { __attribute__((shared)) static int x[8]; p[0] = x[p[1]]; }'
)


@pytest.mark.parametrize("arch", ["gfx906", "gfx1100", "gfx12-generic"])
def test_the_first_note_names_the_kernels_of_all_objects(arch: str, tmp_path: Path) -> None:
    clang, names = find_clang(), ["one", "another", "third"]
    for name in names:
        (tmp_path / f"{name}.hip").write_text(SOURCE.replace("NAME", name))
        clang.compile(tmp_path / f"{name}.hip", tmp_path / f"{name}.o", tmp_path, TARGETS[arch].variants[0])
    clang.link([tmp_path / f"{name}.o" for name in names], tmp_path / "whole.hsaco")
    code = (tmp_path / "whole.hsaco").read_bytes()
    assert code.count(b"amdhsa.kernels") == 1
    facts = read_code_object(code)
    assert (facts.arch, [kernel.name for kernel in facts.kernels]) == (arch, names)
    assert {kernel.kernarg_bytes for kernel in facts.kernels} == {8}
    assert merge_metadata_notes(code) == code
    if arch == "gfx1100":  # of the emulator's families
        assert list(parse(code).kernels) == names
