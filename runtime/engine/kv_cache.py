"""Blocks of the KV cache: which are in use, and which hold what a later request may use again.

A full, computed block is known by the hash of its tokens, of the pictures whose rows they are, and of all before them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from .shared_pool import SharedPool

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


def block_key(previous: bytes, token_ids: Sequence[int], rows_of: bytes = b"") -> bytes:
    """What a block is known by.

    Args:
        previous: key of the block before it; for the first, `root_key` of its space.
        token_ids: the block's, `block_size` of them.
        rows_of: of which pictures they are rows; see `PromptPictures.key`.
    """
    data = previous + array("i", token_ids).tobytes()
    if rows_of:
        return hashlib.blake2b(data + rows_of, digest_size=_KEY_BYTES, person=b"rows").digest()
    return hashlib.blake2b(data, digest_size=_KEY_BYTES).digest()


def add_block_keys(
    keys: list[bytes],
    root: bytes,
    token_ids: Sequence[int],
    size: int,
    count: int,
    rows_of: Callable[[int, int], bytes] | None = None,
) -> list[bytes]:
    """Go on with the keys of a text's first blocks until there are `count`.

    Args:
        keys: of as many of its blocks as there are yet; they are added here.
        root: `root_key` of its space.
        token_ids: of the text, `count` blocks of `size` at least.
        rows_of: see `block_key`, of the tokens from one up to another; None: there are no pictures.

    Returns:
        `keys`.
    """
    for start in range(len(keys) * size, count * size, size):
        pictures = rows_of(start, start + size) if rows_of is not None else b""
        keys.append(block_key(keys[-1] if keys else root, token_ids[start : start + size], pictures))
    return keys


class BlockPool(SharedPool):
    """Blocks of the paged KV cache."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """Args: blocks in all; tokens of one block."""
        super().__init__(num_blocks)
        self.num_blocks = num_blocks
        self.block_size = block_size

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)
