"""Types that msgspec makes values of, taken apart one at a time.

It takes a type apart when it first meets it, and keeps what it found with the class from before it is done: a second
thread that meets it meanwhile reads a null pointer, which ends the process (in `convert` of msgspec 0.22). Requests
that come together after a start are such threads.
"""

from __future__ import annotations

import threading
from typing import Any, Final

_known: Final[set[Any]] = set()
_one_at_a_time: Final = threading.Lock()


def learn(kind: Any) -> None:
    """Have a type taken apart, unless it was: to be called by whoever is about to make values of it."""
    if kind in _known:
        return
    import msgspec  # noqa: PLC0415 - few bundles need it, which do not wait for it

    with _one_at_a_time:
        msgspec.json.Decoder(kind)
        _known.add(kind)
