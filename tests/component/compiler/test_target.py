"""The table of targets: which archs there are, what each has, and with which flags it is built."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
from pathlib import Path

import pytest
import ziglang

from rocmforge.artifacts.errors import UsageError
from rocmforge.artifacts.host import HOST_LEVELS
from rocmforge.artifacts.targets import ARCH_OF_MACHINE, GpuFeatures
from rocmforge.compiler.target import GOLDEN_TOLERANCE, TARGETS, CodeVariant, find_targets

# LLVM's AMDGPU usage guide: lanes of a wave, the int8 dot instruction, the int8 matrix instruction.
VEGA = (64, "sdot4", "none")
CDNA = (64, "sdot4", "mfma_16x16x16_i8")
CDNA3 = (64, "sdot4", "mfma_32x32x16_i8")
RDNA2 = (32, "sdot4", "none")
RDNA3 = (32, "sudot4", "wmma_gfx11")
RDNA4 = (32, "sudot4", "wmma_gfx12")
GPUS = {
    **{"gfx906": VEGA, "gfx908": CDNA, "gfx90a": CDNA, "gfx942": CDNA3, "gfx950": CDNA3, "gfx9-4-generic": CDNA3},
    **dict.fromkeys(("gfx1030", "gfx1031", "gfx1032", "gfx1034", "gfx1035", "gfx1036", "gfx10-3-generic"), RDNA2),
    **dict.fromkeys(("gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"), RDNA3),
    **{"gfx11-generic": RDNA3, "gfx1200": RDNA4, "gfx1201": RDNA4, "gfx12-generic": RDNA4},
    "gfx1250": (32, "sudot4", "none"),
}


def test_the_gpus_of_the_table() -> None:
    assert list(TARGETS) == ["host", "aarch64", *GPUS]
    for arch, features in GPUS.items():
        target = TARGETS[arch]
        assert (target.arch, target.backend) == (arch, "hip")
        assert target.gpu == GpuFeatures(*features, lds_bytes=65536, max_threads=1024), arch
        # ROCm 5.7 loads version 4 and no later one; generic archs exist from version 6 on.
        version = 6 if "generic" in arch else 4
        flags = (f"--offload-arch={arch}", f"-mcode-object-version={version}")
        assert target.variants == (CodeVariant("", flags, (), f"code/{arch}.hsaco"),)
        assert (target.kv_block_size, target.max_batch_tokens, target.max_sequences) == (16, 512, 64)
        assert target.golden_tolerance == GOLDEN_TOLERANCE


@pytest.mark.parametrize("arch", GPUS)
def test_machines_are_those_that_llvm_writes(arch: str, tmp_path: Path) -> None:
    source, code = tmp_path / "work.c", tmp_path / "work.o"
    source.write_text("__attribute__((amdgpu_kernel)) void work(int *p) { *p = 1; }")
    zig, version = Path(str(ziglang.__file__)).with_name("zig"), 6 if "generic" in arch else 4
    flags = ("-target", "amdgcn-amd-amdhsa", f"-mcpu={arch}", f"-mcode-object-version={version}", "-nogpulib", "-c")
    subprocess.run([zig, "clang", *flags, source, "-o", code], check=True)
    (elf_flags,) = struct.unpack_from("<I", code.read_bytes(), 48)
    assert ARCH_OF_MACHINE[elf_flags & 0xFF] == arch


def test_the_host_of_the_table() -> None:
    host = TARGETS["host"]
    assert (host.arch, host.backend, host.gpu, host.golden_tolerance) == ("host", "host", None, GOLDEN_TOLERANCE)
    assert (host.kv_block_size, host.max_batch_tokens, host.max_sequences) == (16, 256, 64)
    v4 = "-march=x86-64-v4", "-mavx512vnni"
    flags = {
        "x86_64_amx": (*v4, "-mamx-tile", "-mamx-int8"),
        "x86_64_v4": v4,
        "x86_64_v3": ("-march=x86-64-v3",),
        "portable": (),
    }
    plain = {"x86_64_amx": v4}
    assert host.variants == tuple(
        CodeVariant(level, flags[level], HOST_LEVELS["host"][level], f"code/host-{level}.so", plain.get(level))
        for level in flags
    )


def test_aarch64_of_the_table() -> None:
    host, found = TARGETS["host"], TARGETS["aarch64"]
    assert found == dataclasses.replace(host, arch="aarch64", variants=found.variants)  # one layout, the same weights
    marches = {
        "aarch64_i8mm": "armv8.2-a+dotprod+i8mm",
        "aarch64_dotprod": "armv8.2-a+dotprod",
        "aarch64": "armv8-a",
    }
    assert [(one.level, one.file, one.flags, one.cpu_features) for one in found.variants] == [
        (
            level,
            f"code/host-{level}.so",
            ("--target=aarch64-linux-gnu", f"-march={march}", "-mno-outline-atomics"),
            HOST_LEVELS["aarch64"][level],
        )
        for level, march in marches.items()
    ]


def test_targets_are_found_each_once_in_the_order_asked_for() -> None:
    found = find_targets(("gfx1100", "host", "gfx1100"))
    assert [target.arch for target in found] == ["gfx1100", "host"]
    with pytest.raises(UsageError) as caught:
        find_targets(("host", "gfx1\x1b"))
    assert str(caught.value) == f"--arch gfx1\\x1b: unknown target; known: {', '.join(TARGETS)}"
