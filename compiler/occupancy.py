"""How many waves of a kernel a GPU holds at once, by the registers and the LDS that it takes.

Source: LLVM's AMDGPUBaseInfo (how registers are given out).
"""

from __future__ import annotations

from ..artifacts.code_object import KernelResources
from ..artifacts.targets import GPU_ARCHES


def waves_per_simd(kernel: KernelResources, arch: str) -> int | None:
    """Return how many waves of a kernel a SIMD of a full GPU holds; None where the arch is not in the table."""
    row = GPU_ARCHES.get(arch)
    if row is None or row.registers is None:
        return None
    file = row.registers
    allocated = max(-(-kernel.vgprs // file.granule) * file.granule, file.granule)
    by_registers = min(file.max_waves, file.vgprs // allocated)
    if not kernel.lds_bytes:
        return by_registers
    waves_of_group = -(-kernel.max_threads // kernel.wave_size)
    groups = file.lds_bytes // kernel.lds_bytes
    return min(by_registers, max(1, groups * waves_of_group // file.simds))
