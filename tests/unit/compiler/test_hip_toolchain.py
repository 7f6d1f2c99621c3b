"""HIP toolchains for real: every arch of the target table, by clang and by hipcc where it knows it."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from rocmforge.artifacts.code_object import CodeObjectError, read_code_object
from rocmforge.artifacts.errors import ToolchainError
from rocmforge.compiler.hip_toolchain import HipToolchain, find_clang, find_hip_toolchain, find_hipcc
from rocmforge.compiler.target import TARGETS, Target

GPUS = [target for target in TARGETS.values() if target.backend == "hip"]
# Each lane squares a number; LDS and dot products and matrix instructions have tests of their own.
SOURCE = """
extern "C" __attribute__((global)) void square(int *out, const int *in)
{
    const unsigned i = __builtin_amdgcn_workgroup_id_x() * 64 + __builtin_amdgcn_workitem_id_x();
    out[i] = in[i] * in[i];
}
"""


def build(toolchain: HipToolchain, target: Target, folder: Path) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "square.hip").write_text(SOURCE)
    toolchain.compile(folder / "square.hip", folder / "square.o", folder, target.variants[0])
    toolchain.link([folder / "square.o"], folder / "square.hsaco")
    return (folder / "square.hsaco").read_bytes()


@pytest.fixture(scope="module")
def clang() -> HipToolchain:
    return find_clang()


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS, ids=lambda target: target.arch)
def test_clang_builds_every_arch_and_the_header_says_so(clang: HipToolchain, target: Target, tmp_path: Path) -> None:
    facts = read_code_object(build(clang, target, tmp_path))
    assert facts.arch == target.arch
    (kernel,) = facts.kernels
    assert (kernel.name, kernel.kernarg_bytes, kernel.spills, kernel.scratch_bytes) == ("square", 16, 0, 0)
    assert target.gpu is not None
    assert kernel.wave_size == target.gpu.wave_size


def section_kinds(code: bytes) -> dict[str, int]:
    """The kind (`sh_type`) of each section by its name, read as the ELF specification has it."""
    (start,) = struct.unpack_from("<Q", code, 0x28)
    size, count, names = struct.unpack_from("<HHH", code, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", code, start + index * size) for index in range(count)]
    strings = code[headers[names][4] : headers[names][4] + headers[names][5]]
    return {strings[name : strings.index(b"\0", name)].decode(): kind for name, kind, *_ in headers}


@pytest.mark.slow
def test_the_tables_that_amds_loader_reads_are_in_the_linked_object(clang: HipToolchain, tmp_path: Path) -> None:
    """AMD's ELF reader takes the symbol table and its strings; without them hipModuleLoadData crashes or refuses."""
    for target in GPUS:
        kinds = section_kinds(build(clang, target, tmp_path / target.arch))
        assert (kinds[".symtab"], kinds[".strtab"], kinds[".dynsym"]) == (2, 3, 11), target.arch
        assert not [name for name in kinds if name.startswith(".debug")]


@pytest.mark.slow
def test_hipcc_builds_what_it_knows(tmp_path: Path) -> None:
    if shutil.which("hipcc") is None:
        pytest.skip("hipcc is not installed: apt-get install hipcc")
    hipcc = find_hipcc()
    known = [target for target in GPUS if target.arch in hipcc.arches]
    assert {"gfx906", "gfx90a", "gfx1030", "gfx1100"} <= {target.arch for target in known}
    for target in known:
        facts = read_code_object(build(hipcc, target, tmp_path / target.arch))
        assert (facts.arch, facts.kernels[0].name) == (target.arch, "square")


def test_the_same_bytes_in_every_folder(clang: HipToolchain, tmp_path: Path) -> None:
    first = build(clang, TARGETS["gfx1100"], tmp_path / "one")
    assert build(clang, TARGETS["gfx1100"], tmp_path / "two" / "deeper") == first
    assert str(tmp_path).encode() not in first


@pytest.mark.slow
def test_auto_takes_hipcc_where_it_knows_the_arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPCC", str(tmp_path / "missing"))
    assert find_hip_toolchain("auto", "gfx1201").name == "clang"  # a hipcc that is not there is not taken
    with pytest.raises(ToolchainError, match="missing"):
        find_hip_toolchain("hipcc", "gfx1100")
    monkeypatch.delenv("HIPCC")
    if shutil.which("hipcc") is None:
        pytest.skip("hipcc is not installed: apt-get install hipcc")
    assert find_hip_toolchain("auto", "gfx1100").name == "hipcc"
    if "gfx1201" not in find_hipcc().arches:
        assert find_hip_toolchain("auto", "gfx1201").name == "clang"
        with pytest.raises(ToolchainError, match=r"gfx1201: unknown to hipcc .* which knows: "):
            find_hip_toolchain("hipcc", "gfx1201")


@pytest.mark.parametrize("said", ["InstalledDir: /usr/bin", "clang version 17.0.0", ""])
def test_a_hipcc_that_names_half_of_its_clang_is_refused(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hipcc = tmp_path / "hipcc"
    hipcc.write_text(f"#!/bin/sh\necho 'HIP version: 6.0'\necho '{said}'\n")
    hipcc.chmod(0o755)
    monkeypatch.setenv("HIPCC", str(hipcc))
    with pytest.raises(ToolchainError) as caught:
        find_hipcc()
    assert str(caught.value) == f"{hipcc}: --version names no clang: not hipcc?"


def test_a_code_object_cut_short_or_of_another_kind_is_refused(clang: HipToolchain, tmp_path: Path) -> None:
    data = build(clang, TARGETS["gfx1100"], tmp_path)
    for length in (0, 10, 64, len(data) // 2, len(data) - 1):
        with pytest.raises(CodeObjectError):
            read_code_object(data[:length])
    with pytest.raises(CodeObjectError, match="machine 62"):
        read_code_object(data[:18] + b"\x3e\0" + data[20:])
    with pytest.raises(CodeObjectError, match="known arch"):
        read_code_object(data[:48] + b"\xfe" + data[49:])
