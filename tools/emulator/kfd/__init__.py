"""An emulated AMD kernel driver: AMD's own HIP and ROCr libraries run in a process of a machine without a GPU.

    preload()      the shim: a shared object for LD_PRELOAD or `ld.so --preload`, built at first use and cached
    environment()  the variables that the process needs beside it

The shim answers for /dev/kfd, the render nodes, their sysfs and libdrm_amdgpu; each AQL queue has a thread that runs
its packets. Nothing has to be imported by the program: at the first queue the shim finds the Python interpreter of its
process and imports `rocmforge.tools.emulator.kfd.executor` into it, which runs the kernels. So the process must be a
Python that can import rocmforge. README.md says how it works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..library import build, build_shared
from .gpus import gpu_of, vram_bytes
from .topology import gpu_id_of, topology

__all__ = ["environment", "preload"]

_NATIVE = Path(__file__).parent / "native"
_SOURCES = (
    "interpose.c",
    "gpus.c",
    "ioctls.c",
    "memory.c",
    "events.c",
    "queues.c",
    "packets.c",
    "executor.c",
    "libdrm.c",
)
# A C library older than any that the shim will meet: it asks for no newer function.
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-D__GLIBC_MINOR__=31")


def environment(gpus: Sequence[str]) -> Mapping[str, str]:
    """Variables for a process with these GPUs, by gfx name, in the order of their device numbers.

    Raises:
        ToolchainError: a GPU that is not known, or `ROCMFORGE_KFD_VRAM_GIB` is none.
    """
    found = [gpu_of(arch) for arch in gpus]
    rows = [
        f"{g.arch},{gpu_id_of(i)},{g.device_id},{g.family},{g.compute_units},{g.engines},{vram_bytes()},{g.name}"
        for i, g in enumerate(found)
    ]
    return {
        "ROCMFORGE_KFD_GPUS": ";".join(rows),
        "ROCMFORGE_KFD_TOPOLOGY": str(topology(found)),
        # There are no copy engines: copies are kernels.
        "HSA_ENABLE_SDMA": "0",
        # An allocation of the program is one of the driver, so an access beyond its last page is a page fault.
        "HSA_DISABLE_FRAGMENT_ALLOCATOR": "1",
    }


def preload() -> Path:
    """The shim, built if need be (seconds), and with it all that its kernels run on: no program may wait for that.

    Raises:
        ToolchainError: the compiler is missing or failed.
    """
    for wave_size in (32, 64):
        build(wave_size)
    return build_shared("kfd", _NATIVE, _SOURCES, _FLAGS, libc=True)
