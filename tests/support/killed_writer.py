"""Writers of bundles that are killed at every step, forked by a small process: what forks one as large as that of the
tests copies the tables of all its pages, time and again.

python -m rocmforge.tests.support.killed_writer FOLDER {exchange,aside} {first,again}
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocmforge.artifacts import writer as writer_module
from rocmforge.tests.support.bundle import content, no_exchange, write_bundle


def child(goal: Path, limit: int, swap: bool, code: bytes) -> int:
    """Write a bundle in another process that kills itself at its `limit`th step; return its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    step = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal step
            step += 1
            if step == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counting

    try:
        for name in ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir", "close"):
            setattr(os, name, counted(getattr(os, name)))
        writer_module.exchange = counted(writer_module.exchange if swap else no_exchange)
        write_bundle(goal, code)
        os._exit(0)
    finally:
        os._exit(3)


def killed_at_every_step(folder: Path, swap: bool, old: bool) -> int:
    """Kill a writer at each of its steps, and check what each leaves; return how many were killed."""
    goal = folder / "m.rfb"
    wanted = content(write_bundle(folder / "undisturbed.rfb", b"new"))
    for limit in range(1, 500):
        if old:
            write_bundle(goal, b"old")
        before = content(goal)
        status = child(goal, limit, swap, b"new")
        if swap or not old:
            assert content(goal) in (before, wanted), limit
        # A rerun clears up after the dead one and gives the same bytes as an undisturbed one.
        write_bundle(goal, b"new")
        assert content(goal) == wanted, limit
        assert sorted(os.listdir(folder)) == ["m.rfb", "undisturbed.rfb"], limit
        if status == 0:
            return limit - 1
        assert os.WTERMSIG(status) == signal.SIGKILL, limit
        if not old:
            shutil.rmtree(goal)
    raise AssertionError("never got to the end")


if __name__ == "__main__":
    print(killed_at_every_step(Path(sys.argv[1]), sys.argv[2] == "exchange", sys.argv[3] == "again"))
