"""Pictures made rows of, beside the engine's steps, in the thread that submits a request."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from ...artifacts.errors import EngineBusyError, RocmforgeError
from ...artifacts.vision import Vision
from ..device.batch import Float32
from ..pictures.patches import Patches, patches_of
from .pictures import PlacedPicture, PromptPictures

KEPT_BYTES: Final = 256 << 20
"""Of rows of pictures: a conversation comes with all of its pictures each time."""


class VisionProgram(Protocol):
    """An encoder on its device; one thread uses it at a time."""

    def encode(self, patches: Patches) -> Float32:
        """Return float32[rows, row_width].

        Raises:
            DeviceError: the device failed.
        """

    def close(self) -> None:
        """Free what it holds."""


class PictureEncoder:
    """A model's encoder, and rows that it made, known by the digests of their pictures. Thread-safe.

    Without a program, as while a lost device is set up again, it is busy.
    """

    def __init__(self, vision: Vision, kept_bytes: int = KEPT_BYTES) -> None:
        """Args: what is known of the encoder; bytes of rows to keep."""
        self.vision = vision
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._program: VisionProgram | None = None
        self._kept: OrderedDict[bytes, Float32] = OrderedDict()  # the least recently used first

    def attach(self, program: VisionProgram) -> None:
        """From now on encode by this program, which is owned."""
        self.close()
        with self._lock:
            self._program = program

    def close(self) -> None:
        """Free the program, as far as the device still lets it."""
        with self._lock:
            program, self._program = self._program, None
            if program is not None:
                with contextlib.suppress(RocmforgeError):
                    program.close()

    def of_prompt(self, pictures: Sequence[PlacedPicture], length: int) -> PromptPictures | None:
        """Return the pictures of a prompt of so many tokens, encoded; None where it has none.

        Raises:
            EngineBusyError: there is no program at the moment.
            RocmforgeError: the device failed.
        """
        if not pictures:
            return None
        rows = [self._rows(one) for one in pictures]
        return PromptPictures(pictures, rows, length, self.vision.m_rope, self.vision.both_ways)

    def _rows(self, placed: PlacedPicture) -> Float32:
        with self._lock:
            found = self._kept.get(placed.digest)
            if found is None:
                if self._program is None:
                    raise EngineBusyError("the model's encoder of images is not available")
                found = self._program.encode(patches_of(placed.picture, self.vision))
                self._keep(placed.digest, found)
            else:
                self._kept.move_to_end(placed.digest)
        return found

    def _keep(self, digest: bytes, rows: Float32) -> None:
        self._kept[digest] = rows
        while sum(one.nbytes for one in self._kept.values()) > self._kept_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)
