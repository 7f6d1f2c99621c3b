"""`rfc serve --worker`, and `--device emulated:gfx1100`, whose engine has a process of its own without being told."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.process import Server, refused, rfc, serving, wait_until
from rocmforge.tools.generate.fixtures import write_model

ASK = {"prompt": "the and of", "max_tokens": 6, "temperature": 0}
LONG = ASK | {"max_tokens": 200, "ignore_eos": True}
WORKER = ("--worker", "--threads", "1")  # two threads would wait for each other on a busy machine


def workers_of(server: Server) -> list[int]:
    """Numbers of the processes that are engines of a server."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task").glob("*/children")
    numbers = [int(one) for file in children for one in file.read_text().split()]
    return [one for one in numbers if "worker.spawn" in _command_of(one)]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return ""


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def policies_of(pid: int) -> set[int]:
    """Scheduling policies of a process's threads."""
    return {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


def test_the_server_does_not_interrupt_its_worker(small_bundle: Path) -> None:
    with serving(small_bundle, *WORKER) as server:
        (worker,) = workers_of(server)
        assert server.post("/generate", ASK).status_code == 200
        assert policies_of(server.process.pid) == {os.SCHED_BATCH}
        assert policies_of(worker) == {os.SCHED_OTHER}
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: workers_of(server) not in ([], [worker]), "another worker")
        wait_until(lambda: server.post("/generate", ASK).status_code == 200, "an answer")
        assert policies_of(workers_of(server)[0]) == {os.SCHED_OTHER}


def test_the_same_answers(small_bundle: Path) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["one", "two"]}}}
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    questions: list[tuple[str, dict[str, object]]] = [
        ("/generate", ASK),
        ("/v1/completions", {"prompt": ["the", "of the"], "n": 2, "max_tokens": 5, "seed": 3, "logprobs": 2}),
        ("/v1/completions", {"prompt": "the and of", "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "seed": 1}),
        ("/v1/embeddings", {"input": ["the", "and of the"]}),
        ("/v1/completions", {"prompt": "the", "max_tokens": 20, "seed": 2, "response_format": schema}),
        ("/v1/completions", {"prompt": "the", "response_format": wrong}),
        ("/v1/completions", {"prompt": "the", "max_tokens": 10**6}),
        ("/generate", {"prompt": ""}),
    ]
    answers = []
    for options in (WORKER[1:], WORKER):
        with serving(small_bundle, "--trace-sample-rate", 1, *options) as server:
            assert len(workers_of(server)) == ("--worker" in options)
            found = [server.post(path, question) for path, question in questions]
            answers.append([(one.status_code, stable(one.json())) for one in found])
            assert server.get("/slots").status_code == server.get("/metrics").status_code == 200
            spans = json.dumps(server.get("/traces").json())
            answers[-1].append((spans.count('"inference_request"'), spans.count('"prefill"')))
            server.wait_until_idle()
            finished = server.counter("requests_completed") + server.counter("requests_failed")
            assert server.counter("requests_started") == finished
            assert server.stop() == 0
    assert answers[0] == answers[1]
    assert [status for status, _ in answers[0][:9]] == [200] * 6 + [400] * 3


def stable(document: object) -> object:
    """An answer without what differs from run to run."""
    if isinstance(document, dict):
        ignored = {"id", "created", "request_id", "timings", "prompt_tokens_details"}
        return {name: stable(value) for name, value in document.items() if name not in ignored}
    return [stable(one) for one in document] if isinstance(document, list) else document


def test_F120_a_worker_is_killed_under_load(small_bundle: Path) -> None:
    with serving(small_bundle, *WORKER) as server:
        expected = server.post("/generate", ASK).json()["tokens"]
        outcomes: list[str] = []

        def ask() -> None:
            with server.post("/generate/stream", LONG, stream=True) as response:
                if response.status_code == 503:
                    outcomes.append("refused")
                    return
                ends = [one for one in server.events(response) if one["finished"]]
            assert len(ends) == 1
            outcomes.append(ends[0]["finish_reason"])
            assert (ends[0]["finish_reason"] == "failed") == ("was killed by SIGKILL" in str(ends[0].get("error")))

        for _ in range(3):
            [pid], before = workers_of(server), server.counter("tokens_generated")
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for thread in threads:
                thread.start()
            wait_until(lambda before=before: server.counter("tokens_generated") > before, "a token")  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
            assert is_gone(pid)
            wait_until(lambda: server.get("/ready").status_code == 200, "ready again")
            assert server.post("/generate", ASK).json()["tokens"] == expected
        found = Counter(outcomes)
        assert sum(found.values()) == 18
        assert set(found) <= {"failed", "length", "refused"}
        assert server.counter("requests_failed") == found["failed"] > 0
        assert server.counter("requests_completed") == found["length"] + 4
        assert 'rocmforge_worker_restarts_total{device="auto"} 3' in server.get("/metrics").text
        assert server.checks()["devices"] == [{"device": "auto", "running": True, "restarts": 3}]
        [pid] = workers_of(server)
        assert server.stop() == 0
        assert is_gone(pid)
    assert "Traceback" not in "".join(server.log)


def test_F120_not_ready_while_there_is_no_worker(small_bundle: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside.rfb"
    with serving(small_bundle, *WORKER) as server:
        small_bundle.rename(aside)
        try:
            [pid] = workers_of(server)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: server.get("/ready").status_code == 503, "not ready")
            assert server.get("/health").json()["status"] == "unhealthy"
            refused_now = server.post("/generate", ASK)
            assert (refused_now.status_code, refused_now.headers["Retry-After"] != "") == (503, True)
            wait_until(lambda: "expected a readable folder" in server.get("/ready").json()["error"], "its reason")
        finally:
            aside.rename(small_bundle)
        wait_until(lambda: server.get("/ready").status_code == 200, "ready again")
        assert server.post("/generate", ASK).ok


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM], ids=lambda one: f"F125-{one.name}")
def test_no_worker_outlives_the_server(small_bundle: Path, number: signal.Signals) -> None:
    with serving(small_bundle, *WORKER) as server:
        [pid] = workers_of(server)
        server.process.send_signal(number)
        server.process.wait(60)
        wait_until(lambda: is_gone(pid), "the worker's end")


def test_F63_it_drains(small_bundle: Path) -> None:
    """SIGTERM to the whole group, as systemd sends it: the worker leaves it to the server."""
    with serving(small_bundle, *WORKER) as server:
        [pid] = workers_of(server)
        with server.post("/generate/stream", LONG, stream=True) as response:
            events = server.events(response)
            next(events)
            os.kill(pid, signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)
            *_, last = events
        assert last["finish_reason"] == "length"
        assert server.process.wait(60) == 0
        assert is_gone(pid)


def test_options_that_do_not_go_together(small_bundle: Path) -> None:
    several = ("--device", "host,host")
    refused(
        rfc("serve", small_bundle, *several, "--no-worker", "--addr", "127.0.0.1:0"), 2, "--no-worker", "a worker each"
    )
    refused(rfc("serve", small_bundle, "--device", "host,nonsense", "--addr", "127.0.0.1:0"), 2, "--device", "nonsense")
    refused(
        rfc("serve", small_bundle, "--worker", "--device", "hip:9", "--addr", "127.0.0.1:0"), 4, "has code for host"
    )


def test_F127_several_devices(small_bundle: Path) -> None:
    with serving(small_bundle, "--device", "host,host", "--threads", 1) as server:
        first, second = sorted(workers_of(server))
        expected = server.post("/generate", ASK).json()["tokens"]
        os.kill(first, signal.SIGKILL)
        assert server.get("/ready").status_code == 200
        for _ in range(4):
            assert server.post("/generate", ASK).json()["tokens"] == expected
        wait_until(lambda: len(workers_of(server)) == 2, "both")
        assert second in workers_of(server)
        metrics = server.get("/metrics").text
        assert 'rocmforge_device_kv_pages{device="host"}' in metrics
        assert server.stop() == 0


def test_an_emulated_gpu_has_a_worker(build_cache: BuildCache, tmp_path: Path) -> None:
    path = write_model(tmp_path / "gpu.gguf", num_layers=1)
    built = rfc("compile", path, "--arch", "gfx1100", "--toolchain", "zig", "--cache-dir", build_cache.root)
    assert built.returncode == 0, built.stderr
    options = ("--device", "emulated:gfx1100", "--max-context", 64, "--threads", 1)
    with serving(path.with_suffix(".rfb"), *options) as server:
        [pid] = workers_of(server)
        tokens = server.post("/generate", ASK).json()["tokens"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.checks()["devices"][0]["restarts"] == 1, "another worker")
        assert server.get("/ready").status_code == 200
        assert server.post("/generate", ASK).json()["tokens"] == tokens
        assert server.stop() == 0
