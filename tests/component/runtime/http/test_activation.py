"""Sockets that a service manager hands over, and what it is told: by a parent such as systemd, and systemd's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from rocmforge.artifacts.errors import RocmforgeError, UsageError
from rocmforge.runtime.http.transport.activation import notify, take_sockets
from rocmforge.tests.support.process import PATIENCE_SECONDS

SERVER = textwrap.dedent("""
    from rocmforge.tests.support.fake_engine import FakeEngine, make_app
    from rocmforge.runtime.http.transport.server import run_server
    run_server(make_app(FakeEngine()), "127.0.0.1", 1, on_ready=lambda *a: print(*a, flush=True))
""")
# As systemd does: the socket becomes descriptor 3, LISTEN_PID that of the program which takes the place of this one.
LAUNCH = textwrap.dedent("""
    import os, sys
    os.dup2(int(sys.argv[1]), 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
""")


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    """What a service manager hears."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(PATIENCE_SECONDS)
    return heard


def test_a_server_on_a_socket_of_its_parent(manager: socket.socket) -> None:
    """Whoever connects before it is up is answered when it is; the port that was asked for is not taken."""
    with socket.create_server(("127.0.0.1", 0)) as listening, manager:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        early = socket.create_connection(listening.getsockname()[:2], timeout=PATIENCE_SECONDS)
        early.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        descriptor = listening.fileno()
        command = [sys.executable, "-c", LAUNCH, str(descriptor), SERVER]
        environment = os.environ | {"NOTIFY_SOCKET": manager.getsockname()}
        with subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE, text=True, env=environment) as up:
            assert manager.recv(100) == b"READY=1"
            assert up.stdout is not None
            assert up.stdout.readline() == f"127.0.0.1 {listening.getsockname()[1]}\n"
            answer = early.recv(1000)
            early.close()
            assert answer.startswith(b"HTTP/1.1 200")
            assert requests.get(f"{url}/ready", timeout=5).status_code == 200
            up.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert up.wait(PATIENCE_SECONDS) == 0
        # The socket is the manager's: the next server can have it.
        socket.create_connection(listening.getsockname()[:2], timeout=5).close()


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_a_server_that_systemd_starts_at_the_first_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}"]
    kept = [f"-E{name}" for name in ("PATH", "PYTHONPATH") if name in os.environ]
    process = subprocess.Popen([*command, *kept, sys.executable, "-c", SERVER], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                assert requests.get(f"http://127.0.0.1:{port}/live", timeout=PATIENCE_SECONDS).status_code == 200
                break
            except requests.ConnectionError:  # it does not listen yet
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
    assert process.returncode == 0


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "HOME": "/"}
    assert take_sockets(environment) == []
    assert environment == {"HOME": "/"}
    assert take_sockets({}) == []


@pytest.mark.parametrize("count", ["0", "", "-1", "65", "x", "99999999999"])
def test_a_number_of_sockets_that_cannot_be(count: str) -> None:
    with pytest.raises(UsageError, match=r"^LISTEN_FDS: expected 1 to 64, found"):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


@pytest.mark.parametrize("kind", ["file", "datagram", "connected", "unix", "none"])
def test_what_is_no_listening_socket(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: dict[str, Callable[[], int]] = {
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        "connected": lambda: socket.socket().detach(),
        "unix": lambda: socket.socket(socket.AF_UNIX).detach(),
        "file": lambda: os.open(tmp_path, os.O_RDONLY),
        "none": lambda: 100_000,
    }
    descriptor = made[kind]()
    monkeypatch.setattr("rocmforge.runtime.http.transport.activation.FIRST_DESCRIPTOR", descriptor)
    with pytest.raises(UsageError, match=rf"^LISTEN_FDS: descriptor {descriptor}: expected a"):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    if kind != "none":
        os.close(descriptor)  # it is as it was


def test_telling_a_manager(manager: socket.socket) -> None:
    notify("READY=1", {})
    with manager:
        notify("READY=1", {"NOTIFY_SOCKET": manager.getsockname()})
        assert manager.recv(100) == b"READY=1"
    notify("STOPPING=1", {"NOTIFY_SOCKET": "/nowhere/at/all"})  # nobody is there
    name = f"rocmforge-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert abstract.recv(100) == b"READY=1"
    with pytest.raises(RocmforgeError, match=r"^NOTIFY_SOCKET: expected a path"):
        notify("READY=1", {"NOTIFY_SOCKET": "host:1"})
