"""Blocks of the KV cache: which are in use, and which hold what a later request may use again.

A block is shared by content: a full, computed one is known by the hash of its tokens and of all before them. It stays
known while nobody holds it, until its block is needed: the one unused for longest goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

_KEY_BYTES = 16  # of BLAKE2b: no two prompts that anyone can find share one


def root_key(space: str, adapters: Sequence[tuple[str, float]] = ()) -> bytes:
    """What stands before the first block of the prompts of one space, computed with the same adapters: no key of
    a block is that of another space's, or of other adapters', or of other scales of theirs.
    """
    key = hashlib.blake2b(space.encode(errors="surrogatepass"), digest_size=_KEY_BYTES, person=b"space").digest()
    used = sorted((name, float(scale)) for name, scale in adapters if scale)
    if not used:
        return key
    return hashlib.blake2b(key + repr(used).encode(), digest_size=_KEY_BYTES, person=b"adapters").digest()


def block_key(previous: bytes, token_ids: Sequence[int]) -> bytes:
    """What a block is known by.

    Args:
        previous: key of the block before it; for the first, `root_key` of its space.
        token_ids: the block's, `block_size` of them.
    """
    return hashlib.blake2b(previous + array("i", token_ids).tobytes(), digest_size=_KEY_BYTES).digest()


class BlockPool:
    """Blocks of the paged KV cache, reference-counted. Not thread-safe: the engine's lock guards it."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Args: blocks in all; tokens of one block."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))  # held by nobody, known for nothing
        self._idle: OrderedDict[int, None] = OrderedDict()  # held by nobody, known; least recently used first
        self._blocks: dict[bytes, int] = {}  # of a key
        self._keys: dict[int, bytes] = {}  # of a block

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds; some may be known for their content."""
        return len(self._free) + len(self._idle)

    @property
    def num_cached(self) -> int:
        """Blocks known for their content, held or not."""
        return len(self._keys)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks to write to, or None where there are not so many."""
        if count > self.num_free:
            return None
        taken = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._idle.popitem(last=False)
                del self._blocks[self._keys.pop(block)]
            self._references[block] = 1
            taken.append(block)
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        """Let go of blocks that `allocate` or `lookup` gave. The last are forgotten first: without those before them,
        they are of no use."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._keys:
                self._idle[block] = None
            else:
                self._free.append(block)

    def share(self, block: int, key: bytes) -> None:
        """From now on `lookup` finds a block that is held, full and computed; the first of equal ones stays."""
        if key not in self._blocks and block not in self._keys:
            self._blocks[key] = block
            self._keys[block] = key

    def lookup(self, key: bytes) -> int | None:
        """The block of that content, to read and to free; None where there is none."""
        block = self._blocks.get(key)
        if block is not None:
            self._references[block] += 1
            self._idle.pop(block, None)
        return block

    def invalidate(self, blocks: Iterable[int]) -> None:
        """Have `lookup` find held blocks no more: what they hold is in doubt."""
        for block in blocks:
            key = self._keys.pop(block, None)
            if key is not None:
                del self._blocks[key]
