"""Commands that kill themselves with SIGKILL at a chosen step."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rocmforge.tests.support.process import rfc

# As sitecustomize: kills its process just before the Nth time that it touches anything in a folder, or sends something.
KILLER = """
import os, signal, sys

folder, kill_at, record = os.environ["FOLDER"], int(os.environ["KILL_AT"]), os.environ["RECORD"]
events = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "shutil.rmtree", "ctypes.dlsym"}
count = 0

def hook(event, arguments):
    global count
    if event in events and (folder in str(arguments[:2]) or "renameat2" in arguments) or event == "http.client.send":
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not kill_at:
            with open(record, "w") as file:
                file.write(str(count))

sys.addaudithook(hook)
"""


class Killed:
    """`rfc` with these arguments, whose steps are the calls that touch `touched`, and requests."""

    def __init__(self, folder: Path, touched: Path, *arguments: object) -> None:
        self._hook = folder / f"hook-{len(list(folder.glob('hook-*')))}"
        self._hook.mkdir()
        (self._hook / "sitecustomize.py").write_text(KILLER)
        self._touched, self._arguments = touched, arguments

    def run(self, kill_at: int) -> int:
        """Run it; 0: to its end. Its exit code."""
        path = os.pathsep.join([str(self._hook), os.environ.get("PYTHONPATH", "")])
        return rfc(
            *self._arguments,
            PYTHONPATH=path,
            FOLDER=str(self._touched),
            KILL_AT=str(kill_at),
            RECORD=str(self._hook / "count"),
        ).returncode

    def dies(self, kill_at: int) -> bool:
        """Run it up to a step; whether it was killed there."""
        return self.run(kill_at) == -signal.SIGKILL

    @property
    def steps(self) -> int:
        """How many the last run to the end had."""
        return int((self._hook / "count").read_text())
