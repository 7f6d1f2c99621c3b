"""How much memory this process may still take, before it takes any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...artifacts.errors import DeviceError
from ...artifacts.layout import Layout

MEBIBYTE = 1 << 20
DEFAULT_KV_BYTES: Final = 1 << 30
DEFAULT_KV_CONTEXTS: Final = 4


@dataclass(frozen=True, slots=True)
class KvSize:
    """How large a KV cache is wanted, and how many slots of state.

    Attributes:
        blocks: exactly so many; None: what fits and is of use.
        max_context: tokens of the longest sequence, of which one must fit.
        state_slots: exactly so many; None: what fits and is of use. Where the model has no state there are none.
    """

    blocks: int | None
    max_context: int
    state_slots: int | None = None


def kv_blocks(layout: Layout, max_context: int, kv_tokens: int | None, available: int | None) -> int:
    """Blocks of the host's KV cache: as asked; or for some full contexts, one at least, the others only where they fit
    into `DEFAULT_KV_BYTES` and half of the memory that is `available` (bytes, None: unknown)."""
    size = layout.kv.block_size
    if kv_tokens is not None:
        return -(-kv_tokens // size)
    wanted = -(-max_context // size)
    budget = DEFAULT_KV_BYTES if available is None else min(DEFAULT_KV_BYTES, available // 2)
    return max(wanted, min(DEFAULT_KV_CONTEXTS * wanted, budget // layout.kv.bytes_per_block))


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be allocated without swapping: the kernel's estimate, less where a cgroup allows less.

    Args:
        root: where `proc` and `sys` are mounted.

    Returns:
        None where the system does not say.
    Source: Linux, Documentation/filesystems/proc.rst (MemAvailable) and admin-guide/cgroup-v2.rst.
    """
    try:
        meminfo = (root / "proc/meminfo").read_text("ascii")
        available = _field(meminfo, "MemAvailable:") * 1024
    except (OSError, ValueError):
        return None
    return min([available, *_cgroup_rooms(root)])


def _cgroup_rooms(root: Path) -> list[int]:
    """Room in this process's cgroup and in each above it that has a limit (cgroup v2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    mount = root / "sys/fs/cgroup"
    folder = mount / path.lstrip("/")
    rooms = []
    for candidate in (folder, *folder.parents):
        try:
            limit = int((candidate / "memory.max").read_text("ascii"))
            used = int((candidate / "memory.current").read_text("ascii"))
            stat = (candidate / "memory.stat").read_text("ascii")
            # The page cache counts as used, but is given up for allocations: mapped weights lie in it.
            rooms.append(max(0, limit - used + _field(stat, "active_file ") + _field(stat, "inactive_file ")))
        except (OSError, ValueError):  # no such folder, no such controller, or the limit "max"
            pass
        if candidate == mount:
            break
    return rooms


def _field(text: str, name: str) -> int:
    """Return the number after `name`; ValueError where there is none."""
    line = next((line for line in text.splitlines() if line.startswith(name)), "")
    return int(line.removeprefix(name).removesuffix("kB"))


def check_memory(layout: Layout, num_blocks: int, available: int | None) -> None:
    """Hold the memory contract against what there is. Weights are mapped from their file, so they need not fit.

    Args:
        layout: of the bundle.
        num_blocks: blocks of the KV cache.
        available: bytes, from `available_memory`.

    Raises:
        DeviceError: KV cache and arena do not fit.
    """
    kv, arena = num_blocks * layout.kv.bytes_per_block, layout.arena_bytes()
    if available is None or kv + arena <= available:
        return
    tokens = num_blocks * layout.kv.block_size
    raise DeviceError(
        f"host: a KV cache of {tokens} tokens and the arena need {_mebibytes(kv + arena)} MiB, "
        f"{_mebibytes(available)} MiB are available (weights of {_mebibytes(layout.weights_bytes)} MiB are mapped, "
        "not counted); --kv-tokens or --max-context ask for less"
    )


def _mebibytes(n_bytes: int) -> int:
    return -(-n_bytes // MEBIBYTE)
