"""A lock file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from rocmforge.artifacts.locked import is_at, locked, open_locked


def test_threads_have_it_one_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "a.lock", 0, 0
    started = threading.Barrier(4)

    def take() -> None:
        nonlocal inside, most
        started.wait(60)
        for _ in range(5):
            with locked(path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)
    assert list(tmp_path.iterdir()) == [path]  # it stays: who waits for it has it open


def test_it_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a.lock"):
        raise ZeroDivisionError
    with locked(tmp_path / "a.lock"):
        pass


def test_what_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none/a.lock"):
        pass


def test_a_file_that_goes_with_its_holder_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    """Removed while others wait for it, look for it or make it, with its folder too."""
    path, inside, most, taken = tmp_path / "folder/a.lock", 0, 0, 0
    started = threading.Barrier(4)

    def take() -> None:
        nonlocal inside, most, taken
        started.wait(60)
        for i in range(300):
            fd = open_locked(path)
            inside += 1
            most = max(most, inside)
            assert is_at(fd, path)
            inside -= 1
            taken += 1
            path.unlink()
            if i % 3 == 0:
                with contextlib.suppress(OSError):  # somebody has made the next one
                    path.parent.rmdir()
            os.close(fd)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most, taken) == (0, 1, 1200)


def test_a_file_that_vanishes_while_it_is_looked_at_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fstat, looked = tmp_path / "a.lock", os.fstat, 0

    def vanishing(fd: int) -> os.stat_result:
        nonlocal looked
        looked += 1
        if looked == 1:
            path.unlink()
        return fstat(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", vanishing)
        fd = open_locked(path)
    assert looked == 2
    assert is_at(fd, path)
    os.close(fd)


def test_those_who_share_a_file_do_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    held = [open_locked(path, fcntl.LOCK_SH) for _ in range(2)]
    assert all(is_at(fd, path) for fd in held)
    with open(path, "rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in held:
        os.close(fd)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        open_locked(tmp_path / "file/a.lock")
