"""Names of arches, and the GPUs that sysfs tells of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rocmforge.artifacts.hip import arch_of_version, installed_arches
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
