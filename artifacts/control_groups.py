"""The control groups that this process is in, of Linux, versions 1 and 2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1 << 16


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that may limit this process, and of those above them; some may not be there.

    Args:
        root: of the system's files.
        controller: of version 1, as "cpu"; version 2 has one group for all.
    """
    mounted = root / "sys/fs/cgroup"
    for line in (system_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = mounted
        elif controller in controllers.split(","):
            base = mounted / controllers if (mounted / controllers).is_dir() else mounted / controller
        else:
            continue
        # `..`: a group outside of a container.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for depth in range(len(parts) + 1):
            yield base.joinpath(*parts[:depth])


def system_text(path: Path) -> str | None:
    """Return the text of a small file of the system; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return os.fsdecode(file.read(_MOST_BYTES))
    except OSError:
        return None
