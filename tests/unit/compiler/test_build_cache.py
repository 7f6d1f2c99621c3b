"""The build cache: checked, atomic, and never the reason that a compile fails."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.cache_dir import default_cache_dir
from rocmforge.artifacts.errors import UsageError
from rocmforge.compiler.build_cache import BuildCache, cache_key
from rocmforge.tests.support.systems import leave_home

KEY = cache_key("source", b"flags")


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir() == Path("/x/rocmforge")
    monkeypatch.setenv("HOME", "/home/somebody")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == Path("/home/somebody/.cache/rocmforge")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_home(monkeypatch)
    with pytest.raises(UsageError) as caught:
        default_cache_dir()
    assert str(caught.value) == "caches: expected a home folder, found none; set XDG_CACHE_HOME or HOME"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir() == Path("/x/rocmforge")


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_keys_differ_where_parts_differ(one: list[bytes], other: list[bytes]) -> None:
    assert (cache_key(*one) == cache_key(*other)) == (one == other)


def test_put_and_get(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path / "cache")
    assert cache.get("code", KEY) is None
    assert cache.get_file("code", KEY) is None
    cache.put("code", KEY, b"")
    assert cache.get("code", KEY) == b""
    (tmp_path / "big").write_bytes(b"abc" * 1_000_000)
    cache.put_file("weights", KEY, tmp_path / "big")
    path = cache.get_file("weights", KEY)
    assert path is not None
    assert path.read_bytes() == b"abc" * 1_000_000
    assert cache.get("other", KEY) is None
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "empty"])
def test_F66_corrupt_entry_is_found_and_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    cache = BuildCache(tmp_path)
    changes = {"flip": b"contemt", "truncate": b"conten", "extend": b"content!", "empty": b""}
    for get in (cache.get, cache.get_file):
        cache.put("code", KEY, b"content")
        (path,) = (tmp_path / "code" / KEY[:2] / KEY).iterdir()
        path.write_bytes(changes[damage])
        with caplog.at_level(logging.WARNING):
            assert get("code", KEY) is None
        assert "corrupt cache entry" in caplog.text
        assert not path.exists()
        caplog.clear()
    cache.put("code", KEY, b"content")
    assert cache.get("code", KEY) == b"content"


def test_F66_entry_that_is_a_folder(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    (tmp_path / "code" / KEY[:2] / KEY / ("0" * 64)).mkdir(parents=True)
    assert cache.get("code", KEY) is None
    cache.put("code", KEY, b"content")
    assert cache.get("code", KEY) == b"content"


@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_F59_full_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = BuildCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        cache.put("code", KEY, b"content")
        cache.put("code", KEY, b"content")
    assert caplog.text.count("No space left on device") == 1
    assert cache.get("code", KEY) is None
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_F64_cache_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    cache = BuildCache(Path("/dev/null/cache"))
    assert cache.get("code", KEY) is None
    cache.put("code", KEY, b"content")
    with cache.lock(KEY):
        assert cache.get_file("code", KEY) is None
    assert caplog.text.count("going on without") == 1


@pytest.mark.parametrize("kind, key", [("../x", KEY), ("code", "../../x"), ("code", ""), ("locks", KEY)])
def test_wrong_names_are_a_defect(tmp_path: Path, kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="cache"):
        BuildCache(tmp_path).put(kind, key, b"")


def test_interruption_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        BuildCache(tmp_path).put("code", KEY, b"content")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.slow
def test_F65_processes_build_a_thing_once(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from rocmforge.compiler.build_cache import BuildCache\n"
        "cache, key = BuildCache(Path(sys.argv[1])), sys.argv[2]\n"
        "with cache.lock(key):\n"
        "    if cache.get('code', key) is None:\n"
        "        print('built'); time.sleep(0.2); cache.put('code', key, b'content')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), KEY], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert sum("built" in process.communicate(timeout=60)[0] for process in processes) == 1
    assert all(process.returncode == 0 for process in processes)
    assert os.listdir(tmp_path / "locks") == [f"{KEY}.lock"]
