"""Limits of the machine, outputs that cannot be written, and signals: one line, and no process that dies of it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from rocmforge.tests.support.process import COMMAND, PATIENCE_SECONDS, environment, refused, rfc, serving, wait_until

ASK = {"prompt": "the and of", "max_tokens": 3, "temperature": 0}


def limited(kind: int, limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`rfc` under a limit of the system."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(),
        check=False,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
    )


@pytest.mark.parametrize("mebibytes", [170, 250])
@pytest.mark.parametrize("command", ["serve", "run", "verify", "compile"])
def test_F82_too_little_address_space(small_bundle: Path, small_gguf: Path, command: str, mebibytes: int) -> None:
    more = {"serve": ("--addr", "127.0.0.1:0"), "run": ("hello",), "verify": (), "compile": ("-o", "/nowhere/x.rfb")}
    model = small_gguf if command == "compile" else small_bundle
    done = limited(resource.RLIMIT_AS, mebibytes << 20, command, model, *more[command])
    refused(done, 1, "ulimit -v", str(mebibytes))


def test_F82_too_little_address_space_for_all_threads(small_bundle: Path) -> None:
    """Each of a hundred threads reserves 8 MiB for its stack."""
    done = limited(resource.RLIMIT_AS, 700 << 20, "serve", small_bundle, "--addr", "127.0.0.1:0", "--kv-tokens", 64)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "rfc: no more threads are available: memory or processes are limited"
    )


def test_F82_what_needs_little_works(small_bundle: Path) -> None:
    assert limited(resource.RLIMIT_AS, 200 << 20, "inspect", small_bundle).returncode == 0


def test_F83_a_log_file_that_is_full(small_bundle: Path) -> None:
    """It says so once, and serves."""
    process = subprocess.Popen(
        [*COMMAND, "serve", str(small_bundle), "--addr", "127.0.0.1:0", "--log-file", "/dev/full"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()  # in the place of "serving ..."
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert line == "rfc: --log-file: /dev/full: No space left on device; lines are lost until it can be written\n"
    assert (rest, process.returncode) == ("", 0)


def test_F83_a_log_file_whose_folder_goes(small_bundle: Path, tmp_path: Path) -> None:
    log, answers = tmp_path / "logs" / "rfc.log", []
    log.parent.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "serve", str(small_bundle), "--addr", "127.0.0.1:0", "--log-file", str(log)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        wait_until(lambda: log.exists() and "serving" in log.read_text() and log.read_text().endswith("\n"), "a log")
        port = log.read_text().split(" on http://127.0.0.1:")[1].split()[0]
        log.unlink()
        log.parent.rmdir()
        for _ in range(3):
            answers.append(requests.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_SECONDS).status_code)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        process.kill()
        process.wait()
    assert (answers, process.returncode) == ([200] * 3, 0)
    assert errors.count("\n") == 1
    assert "rfc.log: No such file or directory; lines are lost" in errors


@pytest.mark.parametrize("arguments", [("inspect",), ("--help",), ("serve", "--help"), ("--version",)], ids=str)
def test_F83_an_output_that_is_full(small_bundle: Path, arguments: tuple[str, ...]) -> None:
    command = [*COMMAND, *arguments, *([str(small_bundle)] if arguments == ("inspect",) else [])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (1, "rfc: No space left on device\n")


@pytest.mark.parametrize("arguments", [("inspect",), ("--help",)], ids=str)
def test_F83_a_reader_that_has_gone(small_bundle: Path, arguments: tuple[str, ...]) -> None:
    command = [*COMMAND, *arguments, *([str(small_bundle)] if arguments == ("inspect",) else [])]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture
def hangup() -> Iterator[None]:
    """A SIGHUP that commands take: whoever starts the tests by nohup has them ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_F84_usr1_and_usr2_do_nothing_and_hup_drains(small_bundle: Path) -> None:
    with serving(small_bundle) as server:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            server.process.send_signal(number)
        assert server.post("/generate", ASK).ok
        with server.post("/generate/stream", ASK | {"max_tokens": 150, "ignore_eos": True}, stream=True) as response:
            events = server.events(response)
            next(events)
            server.process.send_signal(signal.SIGHUP)
            *_, last = events
        assert last["finish_reason"] == "length"
        assert server.process.wait(PATIENCE_SECONDS) == 0


def test_F84_nohup_still_holds(small_bundle: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serving(small_bundle) as server:  # which inherits it
            server.process.send_signal(signal.SIGHUP)
            assert server.post("/generate", ASK).ok
            assert server.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("mode,warned", [(0o644, True), (0o602, True), (0o600, False), (0o640, False)])
def test_F85_a_key_file_that_others_can_read(small_bundle: Path, tmp_path: Path, mode: int, warned: bool) -> None:
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text("secret use\n")
    keys.chmod(mode)
    bad = rfc("serve", small_bundle, "--api-keys", keys, "--log-file", log, "--addr", "nowhere")  # it ends at once
    refused(bad, 2, "--addr")
    said = f"--api-keys: {keys}: other users can read or write it (mode {mode:o})"
    said = f"WARNING rocmforge.runtime.http.transport.auth: {said}"
    assert (said in log.read_text()) == warned
    assert "secret" not in log.read_text()
