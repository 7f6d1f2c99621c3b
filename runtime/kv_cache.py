"""Pages of the KV cache: who holds which block."""

from __future__ import annotations


class BlockPool:
    """Free blocks of the paged KV cache. Owned by the engine's thread."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Args: blocks in all; tokens of one block."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks, or None where there are not so many."""
        if count > len(self._free):
            return None
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken[::-1]

    def give_back(self, blocks: list[int]) -> None:
        """Return blocks taken before."""
        self._free.extend(reversed(blocks))
