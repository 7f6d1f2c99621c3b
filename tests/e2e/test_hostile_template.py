"""A chat template that hangs: a server of it answers everything else, and stops when it is told to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rocmforge.runtime.text.template_process import ANSWER_SECONDS
from rocmforge.runtime.text.template_worker import CPU_SECONDS
from rocmforge.tests.support.process import refused, rfc, serving

# One operation that takes minutes, in one message of many.
HANGS = "{% if messages[0].content == 'go' %}{{ 1.5|round(100000000, 'ceil') }}{% endif %}{{ messages[0].content }}"


def chat(content: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}


def test_F90_a_server_with_a_stuck_template(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(HANGS)
    goal = tmp_path / "hangs.rfb"
    options = ("-o", goal, "--cache-dir", small_cache, "--chat-template", tmp_path / "chat.jinja")
    done = rfc("compile", small_gguf, *options)
    assert done.returncode == 0, done.stderr
    answers = []
    with serving(goal) as server:
        stuck = threading.Thread(target=lambda: answers.append(server.post("/v1/chat/completions", chat("go"))))
        stuck.start()
        time.sleep(0.5)
        assert server.get("/health").status_code == 200
        assert server.post("/v1/chat/completions", chat("hello")).status_code == 200
        assert server.post("/generate", {"prompt": "a", "max_tokens": 1}).status_code == 200
        assert stuck.is_alive()
        assert server.stop() == 0  # drains: the stuck request has its answer
        stuck.join()
    assert answers[0].status_code == 400
    error = answers[0].json()["error"]
    assert error["param"] == "messages"
    problem = "messages: chat template: takes more than "
    assert error["message"] in {f"{problem}{ANSWER_SECONDS:g} s", f"{problem}{CPU_SECONDS} s"}


def test_F90_a_compile_of_a_template_that_takes_too_much_to_parse(small_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("a{{ x }}" * 30_000)
    done = rfc("compile", small_gguf, "-o", tmp_path / "goal.rfb", "--chat-template", tmp_path / "chat.jinja")
    refused(done, 3, "chat.jinja: chat template: takes more than ")  # 256 MiB; on a busy machine it is time first
    assert not (tmp_path / "goal.rfb").exists()
