"""How much memory this process may still take, before it takes any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...artifacts.control_groups import control_groups
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import DeviceError, UsageError
from ...artifacts.layout import Layout

MEBIBYTE = 1 << 20
DEFAULT_KV_BYTES: Final = 1 << 30
DEFAULT_KV_CONTEXTS: Final = 4
DEFAULT_STATE_BYTES: Final = 2 << 30
DRAFT_STATE_BYTES: Final = 1 << 30  # of a draft model
LEAST_SLOTS: Final = 2
"""Of one sequence: the slot of state that it goes on from, and the one that a step writes."""
DRAFT_SLOTS: Final = 3
"""Of one sequence of a draft model: the state after its own tokens, that before a guess, and that after it."""
SNAPSHOT_SLOTS: Final = 64  # beside those of all sequences of a step
_MEMORY_FILES: Final = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Of control groups of version 2 and 1: limit, what is used, and how fields of `memory.stat` begin that count groups
below."""


@dataclass(frozen=True, slots=True)
class KvSize:
    """How large a KV cache is wanted, and how many slots of state.

    Attributes:
        blocks: exactly so many; None: what fits and is of use.
        max_context: tokens of the longest sequence, of which one must fit.
        state_slots: exactly so many; None: what fits and is of use. Where the model has no state there are none.
        beside: of a draft model that is loaded next on the same device, with a KV cache of as many tokens: its layouts,
            of which one will be taken.
        slots_beside: of the draft model's state, where it has some.
        apart: of a part of the same bundle that is loaded next, with a KV cache of one step: the same.
    """

    blocks: int | None
    max_context: int
    state_slots: int | None = None
    beside: tuple[Layout, ...] = ()
    slots_beside: int = 0
    apart: tuple[Layout, ...] = ()

    def bytes_of_block(self, layout: Layout) -> int:
        """Of a block of the cache of this layout, and of the tokens in the cache beside it."""
        tokens = layout.kv.block_size
        beside = (-(-tokens * one.kv.bytes_per_block // one.kv.block_size) for one in self.beside)
        return layout.kv.bytes_per_block + max(beside, default=0)

    @property
    def beside_note(self) -> str:
        """For messages of what does not fit."""
        if not self.slots_beside:
            return " with those of the draft model" if self.beside else ""
        n_bytes = f"{_mebibytes(self.state_bytes_beside)} MiB"
        return f" with those of the draft model and its {self.slots_beside} slots of state ({n_bytes})"

    @property
    def state_bytes_beside(self) -> int:
        """Of the draft model's slots of state."""
        return self.slots_beside * max((one.bytes_per_slot for one in self.beside), default=0)

    def bytes_beside(self, of: Callable[[Layout], int]) -> int:
        """The most that one of the layouts beside it takes of something else, and one of those apart."""
        return max(map(of, self.beside), default=0) + max(map(of, self.apart), default=0)

    @property
    def cache_bytes_apart(self) -> int:
        """Of the KV cache of a part."""
        blocks = ((one, -(-one.max_batch_tokens // one.kv.block_size)) for one in self.apart)
        return max((count * one.kv.bytes_per_block for one, count in blocks), default=0)


def kv_blocks(
    layout: Layout,
    max_context: int,
    kv_tokens: int | None,
    available: int | None,
    bytes_per_block: int | None = None,
) -> int:
    """Blocks of the host's KV cache: as asked; or for some full contexts, one at least, the others only where they fit
    into `DEFAULT_KV_BYTES` and half of the memory that is `available` (bytes, None: unknown). A block has the layout's
    `bytes_per_block`, or more."""
    size = layout.kv.block_size
    if kv_tokens is not None:
        return -(-kv_tokens // size)
    wanted = -(-max_context // size)
    budget = DEFAULT_KV_BYTES if available is None else min(DEFAULT_KV_BYTES, available // 2)
    each = max(1, bytes_per_block or layout.kv.bytes_per_block)
    return max(wanted, min(DEFAULT_KV_CONTEXTS * wanted, budget // each))


def state_slots(layout: Layout, asked: int | None, budget: int) -> int:
    """Return the slots of recurrent state to take; 0 where the model has none.

    Args:
        layout: of the bundle.
        asked: exactly so many; None: `LEAST_SLOTS` for each sequence of a step and some for snapshots, as far as they
            fit into the budget, and `LEAST_SLOTS` in any case.
        budget: bytes.

    Raises:
        UsageError: fewer are asked for than a sequence takes.
    """
    if not layout.states:
        return 0
    if asked is not None and asked < LEAST_SLOTS:
        raise UsageError(f"--state-slots: expected at least {LEAST_SLOTS}, found {asked}")
    wanted = LEAST_SLOTS * layout.max_sequences + SNAPSHOT_SLOTS
    return asked or max(LEAST_SLOTS, min(wanted, budget // layout.bytes_per_slot))


def host_state_slots(layout: Layout, asked: int | None, available: int | None) -> int:
    """Return the host's: by default no more than `DEFAULT_STATE_BYTES` and a quarter of the memory that is `available`
    (bytes, None: unknown). Raises as `state_slots`."""
    budget = DEFAULT_STATE_BYTES if available is None else min(DEFAULT_STATE_BYTES, available // 4)
    return state_slots(layout, asked, budget)


def draft_slots(layout: Layout, available: int | None) -> int:
    """Return the slots of state of a draft model, 0 where it has none: `DRAFT_SLOTS` for each sequence of a step and
    some for snapshots, as far as they fit into `DRAFT_STATE_BYTES` and an eighth of this machine's memory that is
    `available` (bytes, None: unknown)."""
    if not layout.states:
        return 0
    budget = DRAFT_STATE_BYTES if available is None else min(DRAFT_STATE_BYTES, available // 8)
    wanted = DRAFT_SLOTS * layout.max_sequences + SNAPSHOT_SLOTS
    return max(DRAFT_SLOTS, min(wanted, budget // layout.bytes_per_slot))


def describe_slots(layout: Layout, num_slots: int) -> str:
    """Return what is said of slots of state."""
    return f"{num_slots} slots of state ({_mebibytes(num_slots * layout.bytes_per_slot)} MiB)"


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be allocated without swapping: the kernel's estimate, less where a cgroup allows less.

    Args:
        root: where `proc` and `sys` are mounted.

    Returns:
        None where the system does not say.
    Source: Linux, Documentation/filesystems/proc.rst (MemAvailable) and admin-guide/cgroup-v2.rst,
    cgroup-v1/memory.rst.
    """
    try:
        meminfo = (root / "proc/meminfo").read_text("ascii")
        available = _field(meminfo, "MemAvailable:") * 1024
    except (OSError, ValueError):
        return None
    rooms = map(_room, control_groups(root, "memory"))
    return min([available, *(room for room in rooms if room is not None)])


def _room(group: Path) -> int | None:
    """Room in a control group; None where it has no limit."""
    for limit, used, prefix in _MEMORY_FILES:
        try:
            room = int((group / limit).read_text("ascii")) - int((group / used).read_text("ascii"))
            stat = (group / "memory.stat").read_text("ascii")
            # The page cache counts as used, but is given up for allocations: mapped weights lie in it.
            cached = _field(stat, f"{prefix}active_file ") + _field(stat, f"{prefix}inactive_file ")
        except (OSError, ValueError):  # no such folder, no such controller, or the limit "max"
            continue
        return max(0, room + cached)
    return None


def _field(text: str, name: str) -> int:
    """Return the number after `name`; ValueError where there is none."""
    line = next((line for line in text.splitlines() if line.startswith(name)), "")
    return int(line.removeprefix(name).removesuffix("kB"))


def check_memory(
    layout: Layout, num_blocks: int, available: int | None, num_slots: int = 0, size: KvSize | None = None
) -> None:
    """Hold the memory contract against what there is. Weights are mapped from their file, so they need not fit.

    Args:
        layout: of the bundle.
        num_blocks: blocks of the KV cache.
        available: bytes, from `available_memory`.
        num_slots: of state.
        size: what was asked for, where something is loaded beside it.

    Raises:
        DeviceError: KV cache, state and arena do not fit.
    """
    size = size or KvSize(num_blocks, 0)
    arena = layout.arena_bytes() + size.bytes_beside(Layout.arena_bytes) + size.cache_bytes_apart
    states = num_slots * layout.bytes_per_slot + size.state_bytes_beside
    needed = num_blocks * size.bytes_of_block(layout) + arena + states
    if available is None or needed <= available:
        return
    slots, less = "", "--kv-tokens or --max-context ask"
    if num_slots:
        slots, less = f", {describe_slots(layout, num_slots)}", "--kv-tokens, --max-context or --state-slots ask"
    tokens = num_blocks * layout.kv.block_size
    raise DeviceError(
        f"host: a KV cache of {tokens} tokens{slots} and the arena{size.beside_note} need {_mebibytes(needed)} MiB, "
        f"{_mebibytes(available)} MiB are available (weights of {_mebibytes(layout.weights_bytes)} MiB are mapped, "
        f"not counted); {less} for less"
    )


def _mebibytes(n_bytes: int) -> int:
    return -(-n_bytes // MEBIBYTE)
