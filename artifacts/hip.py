"""What compiler and runtime agree on about AMD GPUs: names of libraries and arches, and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

HIP_SONAMES: Final = ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so")
"""Names of HIP's runtime library, of ROCm 7, 6 and 5: the newest first."""

LIBRARY_VARIABLE: Final = "ROCMFORGE_HIP_LIBRARY"
"""Names HIP's library outright: no other is looked for."""

GRAPH_MODES: Final = ("auto", "off", "on")
"""Whether decode steps are replayed as HIP graphs: unless a trial of them fails; never; a failed trial is an error."""

GENERIC_SINCE: Final = (6, 4)
"""The first ROCm whose runtime takes the code of a generic arch."""

KFD_NODES: Final = Path("/sys/class/kfd/kfd/topology/nodes")


def library_paths(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Where to look for HIP's library: what `LIBRARY_VARIABLE` names; else each name, the newest first, in
    $ROCM_PATH/lib, by the loader's own search and in /opt/rocm/lib: an old one that is near hides no new one."""
    named, root = environment.get(LIBRARY_VARIABLE), environment.get("ROCM_PATH")
    if named:
        return [named]
    folders = ([str(Path(root, "lib"))] if root else []) + ["", "/opt/rocm/lib"]
    return [os.path.join(folder, name) for name in HIP_SONAMES for folder in folders]


def version_of(number: int) -> tuple[int, int]:
    """Return major and minor of what hipRuntimeGetVersion gives: 60342134 is (6, 3)."""
    return number // 10_000_000, number // 100_000 % 100


def version_text(version: tuple[int, int] | None) -> str:
    """Return a version for people, as `HIP 6.3`."""
    return "HIP of unknown version" if version is None else f"HIP {version[0]}.{version[1]}"


def arch_of_version(version: int) -> str:
    """Return the arch of a `gfx_target_version`: 110000 is gfx1100, 90010 is gfx90a."""
    return f"gfx{version // 10000}{version // 100 % 100}{version % 100:x}"


def installed_arches(nodes: Path = KFD_NODES) -> tuple[str, ...]:
    """Return the arches of the AMD GPUs here, by the KFD topology in sysfs: a node with a target version is a GPU."""
    found = []
    for properties in sorted(nodes.glob("*/properties")):
        try:
            pairs = (line.split() for line in properties.read_text("ascii").splitlines())
            version = int(dict(pair for pair in pairs if len(pair) == 2).get("gfx_target_version", "0"))
        except (OSError, ValueError):
            continue
        if version:
            found.append(arch_of_version(version))
    return tuple(found)
