"""ISA levels of the host, and the features that Linux tells of."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.artifacts.host import HOST_LEVELS, cpu_features, host_arch


def test_levels_best_first_and_what_they_need() -> None:
    """The x86-64 psABI's v3 and v4 as far as the compiler makes use of them, and AVX-512's dot products; AMX's tiles
    of int8; Linux's names of FEAT_DotProd and FEAT_I8MM."""
    assert [list(levels) for levels in HOST_LEVELS.values()] == [
        ["x86_64_amx", "x86_64_v4", "x86_64_v3", "portable"],
        ["aarch64_i8mm", "aarch64_dotprod", "aarch64"],
    ]
    v3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
    avx512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
    needed = {level: set(features) for levels in HOST_LEVELS.values() for level, features in levels.items()}
    assert needed == {
        "x86_64_amx": v3 | avx512 | {"amx_tile", "amx_int8"},
        "x86_64_v4": v3 | avx512,
        "x86_64_v3": v3,
        "portable": set(),
        "aarch64_i8mm": {"asimddp", "i8mm"},
        "aarch64_dotprod": {"asimddp"},
        "aarch64": set(),
    }


@pytest.mark.parametrize("machine, arch", [("x86_64", "host"), ("aarch64", "aarch64"), ("riscv64", "host")])
def test_the_target_of_a_machine(machine: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert host_arch() == arch


@pytest.mark.parametrize(
    "text, features",
    [
        (b"processor\t: 0\nflags\t\t: fpu avx2: fma\nflags\t\t: other\n", {"fpu", "avx2:", "fma"}),
        (b"processor : 0\nFeatures : fp asimd\n", {"fp", "asimd"}),
        (b"model name : \xff\nflags : sse\n", {"sse"}),
        (b"processor : 0\n", set()),
        (b"", set()),
    ],
    ids=["x86", "arm", "no-utf8", "none", "empty"],
)
def test_features_are_those_of_the_first_processor(text: bytes, features: set[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_bytes(text)
    assert cpu_features(tmp_path / "cpuinfo") == features
    assert cpu_features(tmp_path / "missing") == frozenset()
