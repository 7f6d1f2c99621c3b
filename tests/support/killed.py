"""Commands, also such that kill themselves with SIGKILL at a chosen step, forked by a small process that has all of
`rfc` imported already: a process of its own would take a second for that, each time.

python -m rocmforge.tests.support.killed reads a `_Run` in a line of JSON, and writes its exit code, again and again.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from io import FileIO, TextIOWrapper
from pathlib import Path

from rocmforge.tests.support.process import PATIENCE_SECONDS, environment

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "shutil.rmtree", "ctypes.dlsym"}
_IMPORTS = (
    "rocmforge.compiler.compile",
    "rocmforge.registry.pull",
    "rocmforge.registry.push",
    "rocmforge.runtime.serve",
    "oras.provider",
)


@dataclass(frozen=True)
class _Run:
    """A command: its arguments, where what it says goes, and the step before which it is killed (0: none) of those that
    touch a folder (empty: nothing is counted), which are counted in a file. `portable`: the host has its last level
    alone, as `programs.building_levels` builds it."""

    arguments: list[str]
    said: tuple[str, str]
    count: str = ""
    touched: str = ""
    kill_at: int = 0
    portable: bool = False
    cwd: str = field(default_factory=os.getcwd)
    settings: dict[str, str] = field(default_factory=environment)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The small process; it ends with this one."""
    command = [sys.executable, "-m", "rocmforge.tests.support.killed"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def _finished(run: _Run) -> subprocess.CompletedProcess[str]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{json.dumps(asdict(run))}\n")
    code = int(server.stdout.readline())
    return subprocess.CompletedProcess(run.arguments, code, *(Path(path).read_text() for path in run.said))


def forked(folder: Path, *arguments: object, portable: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `rfc` to its end, as `process.rfc` does.

    Args:
        folder: for what it says.
        portable: it compiles for the host's last level alone, as `programs.compiled` does: both use the same objects.
    """
    said = str(folder / "said.out"), str(folder / "said.err")
    return _finished(_Run([str(one) for one in arguments], said, portable=portable))


def one_of_many(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `rfc` to its end as `process.rfc` does, but for its start: for a case of what other cases of the same command
    show in a process of their own. `changes`: of its environment."""
    with tempfile.TemporaryDirectory() as folder:
        said = f"{folder}/said.out", f"{folder}/said.err"
        return _finished(_Run([str(one) for one in arguments], said, settings=environment(**changes)))


class Killed:
    """`rfc` with these arguments, whose steps are the calls that touch `touched`, and requests; see `forked`."""

    def __init__(self, folder: Path, touched: Path, *arguments: object, portable: bool = False) -> None:
        own = folder / f"killed-{len(list(folder.glob('killed-*')))}"
        own.mkdir()
        said = str(own / "said.out"), str(own / "said.err")
        words = [str(one) for one in arguments]
        self._run = _Run(words, said, str(own / "count"), str(touched), portable=portable)

    def run(self, kill_at: int) -> int:
        """Run it, to the moment before that step; 0: to its end. Its exit code."""
        return _finished(replace(self._run, kill_at=kill_at)).returncode

    def dies(self, kill_at: int) -> bool:
        """Run it up to a step; whether it was killed there."""
        return self.run(kill_at) == -signal.SIGKILL

    @property
    def steps(self) -> int:
        """How many the last run had."""
        return int(Path(self._run.count).read_text())


def _counter(run: _Run) -> Callable[[str, object], None]:
    """The hook that counts steps, and kills."""
    count, record = 0, os.open(run.count, os.O_WRONLY | os.O_CREAT, 0o600)

    def hook(event: str, arguments: object) -> None:
        nonlocal count
        given = arguments if isinstance(arguments, tuple) else ()
        touches = event in _EVENTS and (run.touched in str(given[:2]) or "renameat2" in given)
        if touches or event == "http.client.send":
            count += 1
            if count == run.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            os.pwrite(record, f"{count:20}".encode(), 0)

    return hook


def _be_rfc(run: _Run) -> None:
    """In the fork: what `rfc` does; never returns but where that goes wrong."""
    from rocmforge.cli import main  # noqa: PLC0415 - the tests' own process needs none of it
    from rocmforge.compiler.target import TARGETS  # noqa: PLC0415

    for number, path in zip((0, 1, 2), (os.devnull, *run.said), strict=True):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = TextIOWrapper(FileIO(0, closefd=False))  # the other has been read from
    sys.stdout, sys.stderr = (TextIOWrapper(FileIO(number, "w", closefd=False)) for number in (1, 2))
    os.chdir(run.cwd)
    os.environ.clear()
    os.environ.update(run.settings)
    if run.portable:
        last = TARGETS["host"].variants[-1]
        TARGETS["host"] = replace(TARGETS["host"], variants=(replace(last, flags=(*last.flags, "-O1")),))
    if run.touched:
        sys.addaudithook(_counter(run))
    try:
        main(run.arguments, prog_name="rfc")
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)


def _forked(run: _Run) -> int:
    child = os.fork()
    if not child:
        try:
            _be_rfc(run)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(70)
    # Not SIGKILL, which would look like what was to happen.
    impatience = threading.Timer(PATIENCE_SECONDS, os.kill, (child, signal.SIGTERM))
    impatience.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        impatience.cancel()


def _serve() -> None:
    for name in ("rocmforge.cli", *_IMPORTS):
        importlib.import_module(name)
    for line in sys.stdin:
        print(_forked(_Run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
