"""Names of arches, and the GPUs that sysfs tells of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rocmforge.artifacts.hip import (
    GRAPH_MODES,
    arch_of_version,
    installed_arches,
    library_paths,
    version_of,
    version_text,
)
from rocmforge.artifacts.targets import GENERIC_ARCHES, generic_arch
from rocmforge.compiler.target import TARGETS


@pytest.mark.parametrize(
    "version, arch", [(110000, "gfx1100"), (90010, "gfx90a"), (90402, "gfx942"), (120500, "gfx1250"), (90006, "gfx906")]
)
def test_arch_of_version(version: int, arch: str) -> None:
    assert arch_of_version(version) == arch


def test_generic_arches_are_targets_and_alike() -> None:
    assert set(GENERIC_ARCHES) == {arch for arch in TARGETS if arch.endswith("-generic")}
    for generic, members in GENERIC_ARCHES.items():
        for arch in members:
            assert generic_arch(arch) == generic
            if arch in TARGETS:
                assert TARGETS[arch].gpu == TARGETS[generic].gpu
    known = {arch for arch in TARGETS if not arch.endswith("-generic")}
    families = ("gfx9[45]", "gfx103", "gfx11", "gfx120")
    for members, family in zip(GENERIC_ARCHES.values(), families, strict=True):
        assert set(members) >= {arch for arch in known if re.match(family, arch)}
    assert generic_arch("gfx90a") is None
    assert generic_arch("gfx1199") is None


def test_installed_arches(tmp_path: Path) -> None:
    for index, text in enumerate(
        ("gfx_target_version 0\n", "cpu\ngfx_target_version 110001\nsimd_count 192\n", "\xff")
    ):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "properties").write_text(text, "latin-1")
    assert installed_arches(tmp_path) == ("gfx1101",)
    assert installed_arches(tmp_path / "missing") == ()


def test_all_gpus_are_told_of_whatever_stands_beside_them(tmp_path: Path) -> None:
    texts = ("\xff", "gfx_target_version x\n", "gfx_target_version 90402\n", "gfx_target_version\n", "name Navi 48\n")
    for index, text in enumerate((*texts, "gfx_target_version 120001\n")):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "properties").write_text(text, "latin-1")
    (tmp_path / "0a" / "properties").mkdir(parents=True)
    assert installed_arches(tmp_path) == ("gfx942", "gfx1201")


def test_members_of_the_generic_arches() -> None:
    """LLVM, "User Guide for AMDGPU Backend": the generic processors and what they stand for."""
    members = {
        "gfx9-4-generic": "942 950",
        "gfx10-3-generic": "1030 1031 1032 1033 1034 1035 1036",
        "gfx11-generic": "1100 1101 1102 1103 1150 1151 1152 1153",
        "gfx12-generic": "1200 1201",
    }
    assert {name: tuple(f"gfx{n}" for n in text.split()) for name, text in members.items()} == GENERIC_ARCHES


def test_where_the_library_is_looked_for() -> None:
    names = ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"]
    assert library_paths({}) == [path for name in names for path in (name, f"/opt/rocm/lib/{name}")]
    assert library_paths({"ROCM_PATH": "/r"}) == [
        path for name in names for path in (f"/r/lib/{name}", name, f"/opt/rocm/lib/{name}")
    ]
    assert library_paths({"ROCM_PATH": "/r", "ROCMFORGE_HIP_LIBRARY": "/mine.so"}) == ["/mine.so"]


def test_versions_of_hip() -> None:
    assert [version_of(number) for number in (60342134, 50731921, 70226015, 71000000)] == [
        (6, 3),
        (5, 7),
        (7, 2),
        (7, 10),
    ]
    assert [version_text(version) for version in ((6, 3), None)] == ["HIP 6.3", "HIP of unknown version"]
    assert GRAPH_MODES == ("auto", "off", "on")
