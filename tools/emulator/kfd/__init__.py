"""An emulated AMD kernel driver: AMD's own HIP and ROCr libraries run in a process of a machine without a GPU.

    preload()      the shim: a shared object for LD_PRELOAD or `ld.so --preload`, built at first use and cached
    environment()  the variables that the process needs beside it

The shim answers for /dev/kfd, the render nodes, their sysfs and libdrm_amdgpu; each AQL queue has a thread that runs its packets.
Nothing has to be imported by the program: at the first queue the shim finds the Python interpreter of its process and imports
`rocmforge.tools.emulator.kfd.executor` into it, which runs the kernels. So the process must be a Python that can import rocmforge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["environment", "preload"]


def environment(gpus: Sequence[str]) -> Mapping[str, str]:
    """Variables for a process with these GPUs, by gfx name, in the order of their device numbers.

    Raises:
        ToolchainError: a GPU that is not known.
    """
    raise NotImplementedError


def preload() -> Path:
    """The shim, built if need be (seconds).

    Raises:
        ToolchainError: the compiler is missing or failed.
    """
    raise NotImplementedError
