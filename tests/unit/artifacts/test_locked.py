"""A lock file."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from rocmforge.artifacts.locked import locked


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
