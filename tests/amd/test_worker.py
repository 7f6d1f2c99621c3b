"""A GPU's fault under AMD's own runtime, which then ends the process: it costs a worker, not the server."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import requests

from rocmforge.tests.amd.runtime import Runtime
from rocmforge.tests.support import faulty_worker
from rocmforge.tests.support.process import PATIENCE_SECONDS
from rocmforge.tools.bench.server_process import ServerProcess, children_of, free_port

START = f"""
from rocmforge.runtime.engine.worker import spawn
spawn.MODULE = {faulty_worker.__name__!r}
from rocmforge.cli import main
main()
"""
ASK: dict[str, Any] = {"prompt": "the and of", "max_tokens": 6, "temperature": 0}


def test_F120_a_page_fault_and_a_kill(trixie: Runtime, small: Path, tmp_path: Path) -> None:
    fault, port = tmp_path / "fault", free_port()
    fault.write_text("page fault:20")
    serve = ("serve", small, "--device", "hip", "--max-context", 128, "--addr", f"127.0.0.1:{port}")
    changes = {faulty_worker.VARIABLE: str(fault)}
    words, variables = trixie.popen("gfx1100", "python", "-c", START, *serve, **changes)
    url = f"http://127.0.0.1:{port}"

    def ask(**more: Any) -> requests.Response:
        return requests.post(f"{url}/generate", json=ASK | more, timeout=PATIENCE_SECONDS)

    def wait_for_restart(count: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while requests.get(f"{url}/health", timeout=60).json()["checks"]["devices"][0]["restarts"] != count:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    with ServerProcess(words, port, environment=variables) as server:
        expected = ask().json()["tokens"]
        failed = ask(max_tokens=60, ignore_eos=True)
        assert failed.status_code == 500
        assert "was killed by SIGABRT: " in failed.json()["error"]
        assert "GPU memory access fault" in failed.json()["error"]
        assert "Memory access fault by GPU node-1" in server.log()
        wait_for_restart(1)
        assert ask().json()["tokens"] == expected
        [worker] = [
            pid for pid in children_of(server.pid) if "worker.spawn" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        os.kill(worker, signal.SIGKILL)
        wait_for_restart(2)
        assert ask().json()["tokens"] == expected
        assert server.stop() == 0
        assert "Traceback" not in server.log()
