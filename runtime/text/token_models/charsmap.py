"""SentencePiece's precompiled map of characters: which sequences stand for which others.

It is a double array: from a node a byte leads to another if that one is marked with the byte. A node whose next is a
leaf ends a sequence, and the leaf says where in the texts that follow the array its replacement begins.

Source: SentencePiece `src/normalizer.cc` and darts-clone (format); llama.cpp `src/llama-vocab.cpp` (behaviour).
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

_LEAF: Final = 1 << 8
_FAR: Final = 1 << 9
_VALUE: Final = (1 << 31) - 1
_MARK: Final = 1 << 31 | 0xFF


class Charsmap:
    """A map of characters.

    Args:
        blob: size of the array in bytes (uint32, little-endian), the array (uint32[N]), texts that end with a zero;
            empty: nothing is mapped.
    """

    def __init__(self, blob: bytes) -> None:
        size = int.from_bytes(blob[:4], "little")
        self._nodes: list[int] = np.frombuffer(blob, "<u4", size // 4, 4).tolist() if blob else []
        self._texts = blob[4 + size :]
        self._pair = functools.lru_cache(1 << 15)(self._longest)

    def apply(self, text: str) -> str:
        """A text with the longest sequence at each place replaced."""
        if not self._nodes:
            return text
        out, at = [], 0
        while at < len(text):
            # What two characters say holds but where a sequence may go on past them.
            replaced, size, goes_on = self._pair(text[at : at + 2])
            if goes_on:
                replaced, size, _ = self._longest(text[at : at + 64])
            out.append(replaced)
            at += size
        return "".join(out)

    def _longest(self, text: str) -> tuple[str, int, bool]:
        """What the longest sequence at the beginning stands for, its length, and whether more might make it longer."""
        raw = text.encode()
        node, found, end = self._base(0), -1, 0
        goes_on = True
        for at, byte in enumerate(raw):
            node ^= byte
            if self._node(node) & _MARK != byte:
                goes_on = False
                break
            unit = self._node(node)
            node ^= self._base(node)
            if unit & _LEAF:
                found, end = self._node(node) & _VALUE, at + 1
        if found < 0:
            return text[0], 1, goes_on
        replaced = self._texts[found : self._texts.find(b"\0", found)].decode("utf-8", "replace")
        return replaced, max(1, len(raw[:end].decode("utf-8", "ignore"))), goes_on

    def _node(self, index: int) -> int:
        return self._nodes[index] if index < len(self._nodes) else 0  # of a map that leads out of itself

    def _base(self, index: int) -> int:
        unit = self._node(index)
        return (unit >> 10) << ((unit & _FAR) >> 6)
