"""AQL packets as queues hold them: what HIP's own launches never ask for, such as workgroups that are not whole."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import build
from rocmforge.tools.emulator.code_object import parse
from rocmforge.tools.emulator.dispatch import PACKET, Dispatcher
from rocmforge.tools.emulator.families import family, family_name
from rocmforge.tools.emulator.library import load
from rocmforge.tools.emulator.memory import Memory

# Each work-item adds one to its place, and its workgroup's first tells how many met at the barrier.
SOURCE = """
KERNEL mark(u32 *seen, u32 *met, u32 block_x, u32 block_y, u32 items_x, u32 groups_x) {
  __shared__ u32 count;
  u32 x = __builtin_amdgcn_workitem_id_x(), y = __builtin_amdgcn_workitem_id_y();
  u32 gx = __builtin_amdgcn_workgroup_id_x(), gy = __builtin_amdgcn_workgroup_id_y();
  if (!x && !y) count = 0;
  BARRIER;
  __hip_atomic_fetch_add(&count, 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
  u32 place = (gy * block_y + y) * items_x + gx * block_x + x;
  __hip_atomic_fetch_add(&seen[place], 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  BARRIER;
  if (!x && !y) met[gy * groups_x + gx] = count;
}
"""


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201", "gfx942"])
@pytest.mark.parametrize("items", [(32, 8), (33, 8), (100, 13), (5, 3)])
def test_the_last_workgroups_of_a_grid_are_as_small_as_they_must(arch: str, items: tuple[int, int]) -> None:
    block = (16, 8)
    groups = (-(-items[0] // block[0]), -(-items[1] // block[1]))
    memory = Memory(1 << 20)
    code = parse(build(SOURCE, arch))
    image = memory.allocate(len(code.image), kind="code")
    ctypes.memmove(image.address, code.image, len(code.image))
    kernel = code.kernels["mark"]
    dispatcher = Dispatcher(family(family_name(arch)), memory, 2, check=True, count=True, max_ops=1_000_000)
    loaded = dispatcher.load(code, image, kernel, load(kernel.wave_size))

    seen = memory.allocate(4 * items[0] * items[1])
    met = memory.allocate(4 * groups[0] * groups[1])
    ctypes.memset(seen.address, 0, seen.size)
    kernarg = memory.allocate(max(kernel.kernarg_bytes, 32), read_only=True)
    numbers = np.array([*block, items[0], groups[0]], np.uint32).tobytes()
    ctypes.memmove(kernarg.address, np.array([seen.address, met.address], np.uint64).tobytes() + numbers, 32)
    packet = memory.allocate(PACKET.size, read_only=True)
    words = PACKET.pack(2, 2, *block, 1, 0, *items, 1, 0, kernel.lds_bytes, 0, kernarg.address, 0, 0)
    ctypes.memmove(packet.address, words, PACKET.size)
    assert dispatcher.dispatch(loaded, packet.address) is None

    counts = np.frombuffer(ctypes.string_at(seen.address, seen.size), np.uint32)
    assert (counts == 1).all()  # one less, and an item is missing; one more, and one ran that is not in the grid
    wide, high = ([min(block[d], items[d] - block[d] * g) for g in range(groups[d])] for d in range(2))
    sizes = [x * y for y in high for x in wide]
    assert np.frombuffer(ctypes.string_at(met.address, met.size), np.uint32).tolist() == sizes
