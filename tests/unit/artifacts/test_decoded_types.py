"""Types that many threads meet at once are taken apart by one."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FIRST_REQUESTS = """
import sys, threading
import msgspec
from rocmforge.runtime.http.anthropic import schema as anthropic
from rocmforge.runtime.http.core.body import RequestError, convert
from rocmforge.runtime.http.openai import schema as openai

body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "max_tokens": 4}
named = [*vars(openai).values(), *vars(anthropic).values()]
kinds = [kind for kind in named if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
together, read = threading.Barrier(8), []

def ask():
    together.wait()
    for kind in kinds:
        try:
            read.append(convert(body, kind))
        except RequestError:
            pass

sys.setswitchinterval(1e-6)  # other threads get their turn within the library
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(read) % 8 == 0 and len(read) >= 8
"""


@pytest.mark.parametrize("process", range(6))
def test_requests_that_come_together_after_a_start_do_not_end_it(process: int) -> None:
    """Without `learn` a quarter of such processes ends with a segmentation fault."""
    command = [sys.executable, "-c", _FIRST_REQUESTS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), process
