"""What ends a command: one line and the exit code that is promised for it."""

from __future__ import annotations

import errno
import resource

import click
import pytest

from rocmforge.artifacts.errors import DeviceError, RocmforgeError
from rocmforge.cli.errors import MIN_ADDRESS_SPACE, Group, require_address_space

MISSING = ImportError("libgomp.so.1: cannot map", name="numpy")
ENDS = {
    "ours": (DeviceError("no GPU"), 4, "rfc: no GPU"),
    "ctrl-c": (KeyboardInterrupt(), 130, "rfc: interrupted"),
    "memory": (MemoryError(), 1, "rfc: out of memory"),
    "library": (MISSING, 1, "rfc: cannot load numpy: libgomp.so.1: cannot map"),
    "threads": (
        RuntimeError("can't start new thread"),
        1,
        "rfc: no more threads are available: memory or processes are limited (ulimit -v, ulimit -u)",
    ),
    "file": (OSError(errno.ENOSPC, "No space left on device", "/tmp/a"), 1, "rfc: /tmp/a: No space left on device"),
    "no file": (OSError(errno.EIO, "Input/output error"), 1, "rfc: Input/output error"),
    "a text alone": (OSError("odd"), 1, "rfc: odd"),
    "usage": (click.UsageError("expected less"), 2, "rfc: expected less (see tool act --help)"),
}


def run(error: BaseException | None, result: object = None) -> int:
    """Exit code of a command that ends so."""

    @click.group(cls=Group)
    def tool() -> None:
        pass

    @tool.command()
    def act() -> object:
        if error is not None:
            raise error
        return result

    with pytest.raises(SystemExit) as ended:
        tool.main(["act"], prog_name="tool")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("error", "code", "line"), ENDS.values(), ids=ENDS.keys())
def test_a_command_ends_in_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(error) == code
    assert capsys.readouterr() == ("", f"{line}\n")


def test_a_defect_of_ours_shows_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="can't happen"):
        run(RuntimeError("can't happen"))


def test_a_command_that_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert [run(None), run(None, 0), run(None, 3), run(None, "text")] == [0, 0, 3, 0]
    assert capsys.readouterr() == ("", "")


def test_wrong_usage_says_where_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    @click.group(cls=Group, name="tool")
    def tool() -> None:
        pass

    with pytest.raises(SystemExit) as ended:
        tool.main(["nothing"], prog_name="tool")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "rfc: No such command 'nothing'. (see tool --help)\n"


@pytest.mark.parametrize(
    ("limit", "fits"),
    [(resource.RLIM_INFINITY, True), (MIN_ADDRESS_SPACE, True), (MIN_ADDRESS_SPACE - 1, False), (1 << 20, False)],
)
def test_the_address_space_that_a_model_needs(limit: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, resource.RLIM_INFINITY))
    if fits:
        require_address_space()
        return
    with pytest.raises(RocmforgeError, match=rf"expected 320 MiB or more beside the model, found {limit >> 20}$"):
        require_address_space()
