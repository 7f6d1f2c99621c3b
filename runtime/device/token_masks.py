"""Masks of constraints, computed in a thread of their own while the device works.

Which token may come next is known with the token before it, and is asked for at the end of a step, where tokens are
drawn. So a mask is begun with the token, and waited for by the device's program, after the forward pass.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import RocmforgeError

log = logging.getLogger(__name__)

_BITS: Final = 32


class MaskSource(Protocol):
    """What knows which tokens may come next: a `Constraint`."""

    def mask(self) -> npt.NDArray[np.uint32]:
        """Return a bit a token, the lowest first.

        Raises:
            RocmforgeError: it cannot be said.
        """


class PendingMask:
    """uint32[V / 32, rounded up] for a vocabulary of V: a mask that may still be in the making.

    Attributes:
        nbytes: that it takes.
    """

    def __init__(self, future: Future[npt.NDArray[np.uint32]], num_words: int) -> None:
        """Expect a mask of `num_words` from `future`."""
        self._future = future
        self._num_words = num_words
        self.nbytes = num_words * _BITS // 8

    def wait(self) -> npt.NDArray[np.uint32]:
        """Return the mask; all zero where it failed, so that no token can be drawn."""
        if self._future.exception() is not None:
            return np.zeros(self._num_words, np.uint32)
        found = self._future.result()
        if len(found) == self._num_words:
            return found
        return np.pad(found, (0, max(0, self._num_words - len(found))))[: self._num_words]

    def of_vocabulary(self, size: int) -> PendingMask:
        """Return the same mask for a vocabulary of which this one is the beginning, or that is the beginning of this
        one: of the tokens that one of them lacks, none may be drawn."""
        return PendingMask(self._future, -(-size // _BITS))

    def error(self) -> BaseException | None:
        """Return why it failed; waits, as `wait` does."""
        error = self._future.exception()
        if error is not None and not isinstance(error, RocmforgeError):
            log.error("a mask could not be computed", exc_info=error)
        return error


class TokenMasks:
    """The thread that computes masks, one after another; it begins with the first one."""

    def __init__(self, vocab_size: int) -> None:
        """Prepare masks for a vocabulary of so many tokens."""
        self._num_words = -(-vocab_size // _BITS)
        self.nothing = np.zeros(self._num_words, np.uint32)  # a mask that allows no token
        self._executor = ThreadPoolExecutor(1, "token-masks")

    def begin(self, source: MaskSource) -> PendingMask:
        """Have a mask computed. Until it is there, nobody else may use `source`."""
        return PendingMask(self._executor.submit(self._compute, source), self._num_words)

    def _compute(self, source: MaskSource) -> npt.NDArray[np.uint32]:
        mask = source.mask()
        if len(mask) < self._num_words:
            raise ValueError(f"expected a mask of {self._num_words} words, found {len(mask)}")
        return np.ascontiguousarray(mask[: self._num_words], np.uint32)

    def close(self) -> None:
        """End the thread, after the mask that it is at; those not yet begun are never made."""
        self._executor.shutdown(cancel_futures=True)
