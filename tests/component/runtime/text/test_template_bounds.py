"""What a template may take of a process, and who waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import EngineBusyError
from rocmforge.runtime.text import template_process, template_worker
from rocmforge.runtime.text.chat import ChatTemplate, check_template
from rocmforge.runtime.text.template_budget import MAX_SECONDS
from rocmforge.runtime.text.template_process import ANSWER_SECONDS, MAX_PROCESSES, ChatTemplateError
from rocmforge.runtime.text.template_worker import CPU_SECONDS, MEMORY_BYTES
from rocmforge.tests.support.templates import ask, children, template, wait_until

MESSAGES = [{"role": "user", "content": "<b>é</b> 'q' \ud800 \0", "n": 10**400, "list": [1, None, True, 0.5, {}]}]


def test_values_arrive_as_they_are() -> None:
    with template("{{ bos_token }}{{ messages|tojson }}{{ tools is none }}{{ x }}") as made:
        text = made.render(MESSAGES, x="é\udfff")
    assert text == "<s>" + json.dumps(MESSAGES, ensure_ascii=False) + "Trueé\udfff"


def refused(made: ChatTemplate) -> None:
    """Ask for what a hostile template answers badly."""
    with contextlib.suppress(ChatTemplateError):
        ask(made, "go")


# What the sandbox does not foresee: most are one operation of the template.
BOMBS = {
    "processor": "{{ 1.5|round(100000000, 'ceil') }}",
    "punycode": "{{ ('2n7c' ~ 'a' * 500000).encode().decode('punycode') }}",
    "bytes times": "{{ 'a'.encode() * 4000000000 }}",
    "bytes percent": "{{ '%0999999999d'.encode() % 1 }}",
    "integer to bytes": "{{ (1).to_bytes(3000000000, 'big') }}",
    "values": "{% set n = namespace(v=none) %}{% for i in range(5000) %}"
    "{% set n.v = namespace(before=n.v, text='y' * 500000 ~ i) %}{% endfor %}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_F90_a_template_that_takes_too_much_is_ended_and_the_next_request_served(bomb: str) -> None:
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    earlier = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # compilers, where other tests ran before
    with template("{% if messages[0].content == 'go' %}" + bomb + "{% endif %}{{ messages[0].content }}") as made:
        assert ask(made) == "hello"
        with pytest.raises(ChatTemplateError) as caught:
            ask(made, "go")
        limits = f"({ANSWER_SECONDS:g} s|{CPU_SECONDS} s|{MEMORY_BYTES >> 20} MiB of memory, or nests too deeply)"
        # Where the one operation ends just before the process would be, the sandbox sees its own time pass right after.
        ended = f"takes more than {limits}|LimitError: takes more than {MAX_SECONDS:g} s"
        assert re.fullmatch(f"chat template: ({ended})", str(caught.value))
        assert ask(made) == "hello"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < ours + (100 << 10)  # KiB
    bound = max((MEMORY_BYTES >> 10) + (100 << 10), earlier + 1)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < bound


def test_F90_parsing_is_bounded_as_well() -> None:
    before = children()
    started = time.monotonic()
    for source in ("{{ " + "(" * 9999, "{{ " + "x." * 100_000 + "x }}", "{% if x %}" * 20_000):
        with pytest.raises(ChatTemplateError) as caught:
            check_template(source)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 6 * ANSWER_SECONDS
    assert children() <= before


def test_F90_a_stuck_rendering_holds_up_nobody_else() -> None:
    before = children()
    with template("{% if messages[0].content == 'go' %}" + BOMBS["processor"] + "{% endif %}fine") as made:
        ask(made)
        stuck = [threading.Thread(target=refused, args=(made,)) for _ in range(2)]
        for thread in stuck:
            thread.start()
        wait_until(lambda: len(children()) >= 2)
        assert ask(made) == "fine"
        assert all(thread.is_alive() for thread in stuck)
        for pid in children() - before:  # others see them come to their limits
            os.kill(pid, signal.SIGKILL)
        for thread in stuck:
            thread.join()


def test_F90_too_many_stuck_renderings_make_others_wait_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "QUEUE_SECONDS", 0.3)
    before = children()
    with template("{% if messages[0].content == 'go' %}" + BOMBS["processor"] + "{% endif %}fine") as made:
        stuck = [threading.Thread(target=refused, args=(made,)) for _ in range(MAX_PROCESSES)]
        for thread in stuck:
            thread.start()
            time.sleep(0.2)
        assert len(children() - before) <= MAX_PROCESSES
        with pytest.raises(EngineBusyError, match="busy with other requests"):
            ask(made)
        assert all(thread.is_alive() for thread in stuck)
        for pid in children() - before:  # others see them come to their limits
            os.kill(pid, signal.SIGKILL)
        for thread in stuck:
            thread.join()
        assert ask(made) == "fine"


@pytest.mark.parametrize(
    "hard, asked, expected",
    [
        (resource.RLIM_INFINITY, 100, 100),
        (50, 100, 50),
        (500, 100, 100),
        (500, resource.RLIM_INFINITY, 500),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_a_limit_is_set_as_far_as_the_system_lets_it_be(
    monkeypatch: pytest.MonkeyPatch, hard: int, asked: int, expected: int
) -> None:
    told: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (7, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: told.append((what, limits)))
    template_worker._limit(resource.RLIMIT_AS, asked)
    assert told == [(resource.RLIMIT_AS, (expected, hard))]


def test_one_process_serves_many_threads() -> None:
    before = children()
    with template("{{ messages[0].content }}") as made:
        results: list[str] = []
        threads = [threading.Thread(target=lambda i=i: results.append(ask(made, f"{i}" * 10_000))) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == sorted(f"{i}" * 10_000 for i in range(32))
        assert len(children() - before) == 1


def test_a_process_that_was_killed_while_it_was_idle_is_replaced() -> None:
    before = children()
    with template("{{ messages[0].content }}") as made:
        made.start()
        (first,) = children() - before
        assert ask(made) == "hello"
        os.kill(first, signal.SIGINT)  # a Ctrl-C is the server's to judge
        assert ask(made) == "hello"
        assert children() - before == {first}
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: "Z" in Path(f"/proc/{first}/stat").read_text())
        assert ask(made) == "hello"
        (second,) = children() - before
        assert second != first


def test_one_process_is_made_ready_however_often_it_is_asked_for() -> None:
    with template("{{ messages[0].content }}") as made:
        before = children()
        for _ in range(3):
            made.start()
        assert len(children() - before) == 1
        assert ask(made) == "hello"


def test_a_template_that_fails_keeps_its_process() -> None:
    before = children()
    with template("{{ raise_exception('no\n' ~ messages[0].content) }}") as made:
        for _ in range(2):
            with pytest.raises(ChatTemplateError, match=r"^chat template: no\\nhello$"):
                ask(made)
            found = children() - before
        assert children() - before == found


def test_what_a_process_inherits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor files: nothing but its socket."""
    monkeypatch.setenv("ROCMFORGE_API_KEY", "secret")
    passed_on = {
        name: os.environ.get(name, "/given")
        for name in ("PATH", "LD_LIBRARY_PATH", "TZ", "TZDIR", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV")
    }
    for name, value in passed_on.items():
        monkeypatch.setenv(name, value)
    before = children()
    with open(__file__, "rb") as file, template("{{ messages[0].content }}") as made:
        os.set_inheritable(file.fileno(), True)
        ask(made)
        (pid,) = children() - before
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"secret" not in environ
        assert {f"{name}={value}".encode() for name, value in passed_on.items()} <= set(environ.split(b"\0"))
        assert os.getpgid(pid) == pid  # a Ctrl-C at the terminal is not for it
        links = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert {link.partition(":")[0] for link in links} == {"socket", "/dev/null"}
        assert len(links) == 2


ORPHAN = """
import glob, os, sys, threading, time
from rocmforge.runtime.text.chat import ChatTemplate
made = ChatTemplate(sys.argv[1], "", "")
threading.Thread(target=lambda: made.render([])).start()
made.start()
time.sleep(1)
print(*(open(path).read() for path in glob.glob("/proc/self/task/*/children")), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("source", ["idle", BOMBS["processor"]], ids=["idle", "at work"])
def test_F90_a_killed_server_leaves_no_process(source: str) -> None:
    command = [sys.executable, "-c", ORPHAN, source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = done.stdout.split()
    assert pids
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
