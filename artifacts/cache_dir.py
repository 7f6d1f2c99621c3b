"""Where this user's caches lie."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UsageError


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/rocmforge`, or `~/.cache/rocmforge` where that is unset or relative.

    Raises:
        UsageError: the user has no home either, as one of a container that is only a number.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore relative paths.
    if os.path.isabs(base):
        return Path(base) / "rocmforge"
    try:
        return Path.home() / ".cache" / "rocmforge"
    except RuntimeError:
        raise UsageError("caches: expected a home folder, found none; set XDG_CACHE_HOME or HOME") from None
