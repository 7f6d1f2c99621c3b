"""How a written bundle gets its name: swapped or moved aside, locked, and what dead writers left."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts import writer as writer_module
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import content, write_bundle


def refusing(number: int, call: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """`call`, but for what it is given `when`: then an error of the system, without a text of its own."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    return refuse


def test_two_names_are_swapped_in_one_step(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.mkdir()
    writer_module.exchange(one, other)
    assert (one.is_dir(), other.read_bytes()) == (True, b"1")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        writer_module.exchange(one, tmp_path / "none")
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOENT, os.strerror(errno.ENOENT))


def test_a_c_library_without_renameat2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError) as caught:  # noqa: PT011
        writer_module.exchange(tmp_path, tmp_path)
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT])
def test_where_names_cannot_be_swapped_the_old_one_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    monkeypatch.setattr(writer_module, "exchange", refusing(number, writer_module.exchange))
    write_bundle(goal, b"new")
    assert open_bundle(goal).read("code/host.so") == b"new"
    assert os.listdir(tmp_path) == ["m.rfb"]


@pytest.mark.parametrize("call", ["exchange", "rename"])
def test_any_other_error_while_it_is_published_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    before = content(goal)
    of = writer_module if call == "exchange" else os
    monkeypatch.setattr(of, call, refusing(errno.EXDEV, getattr(of, call)))
    with pytest.raises(RocmforgeError) as caught:
        write_bundle(goal, b"new")
    assert str(caught.value) == f"cannot write {goal}: {os.strerror(errno.EXDEV)}"
    assert (content(goal), os.listdir(tmp_path)) == (before, ["m.rfb"])


def test_an_error_without_a_number_is_told_of_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: object) -> None:
        raise OSError("it broke")

    monkeypatch.setattr(os, "fsync", odd)
    with pytest.raises(RocmforgeError) as caught:
        write_bundle(tmp_path / "m.rfb")
    assert str(caught.value) == f"cannot write {tmp_path / 'm.rfb'}: it broke"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    left = tmp_path / ".m.rfb.0123456789abcdef.partial"
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", refusing(number, fcntl.flock))
    write_bundle(tmp_path / "m.rfb")
    assert sorted(os.listdir(tmp_path)) == [left.name, "m.rfb"]


def test_a_lock_that_fails_otherwise_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO, fcntl.flock))
    with pytest.raises(RocmforgeError) as caught:
        write_bundle(tmp_path / "m.rfb")
    assert str(caught.value) == f"cannot write {tmp_path / 'm.rfb'}: {os.strerror(errno.EIO)}"
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_staging_folder_that_another_takes_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone before it is opened, gone before it is locked, and then left alone."""
    opened, flock, taken = os.open, fcntl.flock, list[Path]()

    def take(path: Path) -> None:
        taken.append(path)
        os.rmdir(path)

    def opening(path: Any, *args: Any, **kwargs: Any) -> int:
        if not taken and str(path).endswith(".partial"):
            take(Path(path))
        return opened(path, *args, **kwargs)

    def locking(fd: int, operation: int) -> None:
        if len(taken) == 1:
            take(Path(os.readlink(f"/proc/self/fd/{fd}")))
        flock(fd, operation)

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(fcntl, "flock", locking)
    with BundleWriter(tmp_path / "m.rfb") as writer:
        assert len({*taken, writer.staging}) == 3
        assert os.listdir(tmp_path) == [writer.staging.name]
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    "name",
    [
        ".m.rfb.0123456789abcde.partial",
        ".m.rfb.0123456789abcdef0.partial",
        ".m.rfb.0123456789abcdeg.partial",
        ".mxrfb.0123456789abcdef.partial",
        ".m.rfb.0123456789abcdef.aside",
        "m.rfb.0123456789abcdef.partial",
    ],
)
def test_folders_of_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write_bundle(tmp_path / "m.rfb")
    assert sorted(os.listdir(tmp_path)) == sorted([name, "m.rfb"])


def test_what_dead_writers_left_is_removed_and_what_is_no_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / ".m.rfb.0000000000000000.partial").symlink_to("precious")
    (tmp_path / ".m.rfb.1111111111111111.partial").write_bytes(b"file")
    for digit in "23":
        (tmp_path / f".m.rfb.{digit * 16}.partial").mkdir()
        (tmp_path / f".m.rfb.{digit * 16}.partial" / "weights.bin").write_bytes(b"half")
    (tmp_path / f".m.rfb.{'4' * 16}.aside.partial").mkdir()  # half removed
    write_bundle(tmp_path / "m.rfb")
    left = [".m.rfb.0000000000000000.partial", ".m.rfb.1111111111111111.partial", "m.rfb", "precious"]
    assert sorted(os.listdir(tmp_path)) == left
