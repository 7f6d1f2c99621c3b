"""Tiles of the processor, as the level `x86_64_amx` needs them: what a code object says of this machine's."""

from __future__ import annotations

import ctypes
from typing import Final

PROBLEMS: Final = (
    "",
    "the processor has no tiles",
    "the system saves no tiles",
    "the system refuses the permission for tiles (arch_prctl, ARCH_REQ_XCOMP_PERM)",
    "no process could be begun to try tiles in",
    "tiles computed other sums than they should, or could not be used, when they were tried",
)
"""By the numbers of kernels/host/panels_check.h."""


def panels_problem(library: ctypes.CDLL) -> str:
    """Ask the system for this process's permission to use tiles, and try them, where the code needs that.

    Returns:
        Why the code cannot run here; empty where it can.
    """
    try:
        ask = library.rfc_panels_problem
    except AttributeError:
        return ""  # of a level without tiles
    ask.restype, ask.argtypes = ctypes.c_int32, ()
    answer = int(ask())
    return PROBLEMS[answer] if 0 <= answer < len(PROBLEMS) else f"its trial answered {answer}"
