"""aider, a pair programmer for the terminal, answers a question about a file, streamed and whole."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.clients.programs import python_program
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_a_question_about_a_file_is_answered(server: Server, tmp_path: Path, stream: str) -> None:
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    options = [
        "--no-git",
        "--no-check-update",
        "--no-analytics",
        "--no-show-model-warnings",
        "--yes-always",
        "--no-pretty",
    ]
    question = ["--chat-mode", "ask", "--message", "What does this file do? One sentence."]
    aider = python_program("aider", "aider-chat==0.86.2") / "aider"
    done = subprocess.run(
        [aider, "--model", f"openai/{MODEL}", *options, stream, *question, "sums.py"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "OPENAI_API_BASE": f"{server.url}/v1",
            "OPENAI_API_KEY": "none",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"Tokens: (\d+) sent, (\d+) received", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 100  # its prompt and the file were read
    assert int(found[2]) > 5
    assert "add" in done.stdout.partition("sums.py to the chat")[2]
