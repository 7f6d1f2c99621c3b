"""Builds small freestanding HIP kernels with the ziglang wheel's clang and lld, and calls them on the emulator."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from rocmforge.tools.emulator import HipEmulator

PRELUDE = """
#define __global__ __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, 1024)))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define KERNEL extern "C" __global__ void
#define THREAD __builtin_amdgcn_workitem_id_x()
#define GROUP __builtin_amdgcn_workgroup_id_x()
#define SIZE __builtin_amdgcn_workgroup_size_x()
#define GLOBAL (GROUP * SIZE + THREAD)
#define FENCE(kind) __builtin_amdgcn_fence(kind, "workgroup")
#define BARRIER FENCE(__ATOMIC_RELEASE); __builtin_amdgcn_s_barrier(); FENCE(__ATOMIC_ACQUIRE)
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned u32; typedef unsigned long u64;
typedef signed char i8; typedef short i16; typedef int i32; typedef long i64; typedef _Float16 f16;
"""


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


@cache
def build(source: str, arch: str, *flags: str) -> bytes:
    """A raw ELF code object of HIP source, with PRELUDE before it."""
    spec = util.find_spec("ziglang")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    clang = [str(root / "zig"), "clang"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "k.hip").write_text(PRELUDE + source, encoding="utf-8")
        version = "-mcode-object-version=5" if "generic" not in arch else "-mcode-object-version=6"
        # An object, where the driver would stop at bitcode or link: as in `compiler/hip_toolchain.py`.
        front = ["-x", "hip", "--offload-device-only", f"--offload-arch={arch}", "-emit-llvm", "-Xclang", "-emit-obj"]
        common = ["-nogpuinc", "-nogpulib", "-O3", version, *flags, "-c"]
        _run([*clang, *front, *common, str(path / "k.hip"), "-o", str(path / "k.o")])
        _run([str(root / "zig"), "ld.lld", "-shared", str(path / "k.o"), "-o", str(path / "k.so")])
        return (path / "k.so").read_bytes()


class Gpu:
    """A module on an emulator, called with NumPy arrays (copied in and out) and ctypes scalars."""

    def __init__(
        self, source: str, arch: str = "gfx1100", flags: tuple[str, ...] = (), device: str = "", **options: Any
    ):
        self.api = HipEmulator(device or arch, **options)
        self.module = ctypes.c_void_p()
        self.check(self.api.hipModuleLoadData(ctypes.byref(self.module), build(source, arch, *flags)))

    def check(self, code: int) -> None:
        """Fail with HIP's own words."""
        assert code == 0, f"{self.api.hipGetErrorName(code).decode()}: {self.api.hipGetErrorString(code).decode()}"

    def upload(self, array: np.ndarray) -> ctypes.c_void_p:
        """Copy to fresh device memory."""
        pointer = ctypes.c_void_p()
        self.check(self.api.hipMalloc(ctypes.byref(pointer), array.nbytes))
        self.check(self.api.hipMemcpy(pointer, array.ctypes.data, array.nbytes, 1))
        return pointer

    def launch(self, name: str, grid: int, block: int, *arguments: object, shared: int = 0) -> int:
        """Run a kernel; arrays are copied back after it. The error code of the launch."""
        function = ctypes.c_void_p()
        self.check(self.api.hipModuleGetFunction(ctypes.byref(function), self.module, name.encode()))
        arrays = [(a, self.upload(a)) for a in arguments if isinstance(a, np.ndarray)]
        for index, (_, pointer) in enumerate(arrays):
            self.api.label(pointer, f"array {index}")
        pointers = iter([p for _, p in arrays])
        values = [next(pointers) if isinstance(a, np.ndarray) else a for a in arguments]
        table = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])  # type: ignore[arg-type]
        code = self.api.hipModuleLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, None, table, None)
        for array, pointer in arrays:
            if not code:
                self.check(self.api.hipMemcpy(array.ctypes.data, pointer, array.nbytes, 2))
            self.check(self.api.hipFree(pointer))
        return code

    def run(self, name: str, grid: int, block: int, *arguments: object, shared: int = 0) -> None:
        """Run a kernel that must succeed."""
        self.check(self.launch(name, grid, block, *arguments, shared=shared))
