"""Chat templates in processes of their own: that those are bounded, replaced, and gone when nobody needs them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from rocmforge.artifacts.errors import EngineBusyError
from rocmforge.runtime.text import template_process
from rocmforge.runtime.text.template_process import (
    ANSWER_SECONDS,
    MAX_PROCESSES,
    ChatTemplateError,
    TemplateProcess,
    TemplateProcesses,
)
from rocmforge.runtime.text.template_worker import CPU_SECONDS
from rocmforge.tests.support.templates import ask, template, wait_until

MESSAGES = [{"role": "user", "content": "<b>é</b> 'q' \ud800 \0", "n": 10**400, "list": [1, None, True, 0.5, {}]}]


# A process that does as a test says, in place of the true one: faster, and it can misbehave.
CHILD = """
import os, signal, sys, time
put, take = sys.stdout.buffer, sys.stdin.buffer
def send(data, length=None):
    put.write((len(data) if length is None else length).to_bytes(8, "little") + data)
    put.flush()
def receive():
    return take.read(int.from_bytes(take.read(8), "little"))
"""
PARSES = "send(b'r'); receive(); send(b'+');"


@contextlib.contextmanager
def child(monkeypatch: pytest.MonkeyPatch, script: str, source: str = "x") -> Iterator[TemplateProcess]:
    monkeypatch.setattr(template_process, "_COMMAND", CHILD + script)
    made = TemplateProcess(source)
    try:
        yield made
    finally:
        made.stop()
        assert not made.alive


def test_a_process_that_does_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "send(b'r'); send(b'+' + receive()); send(b'+' + receive()[::-1]); send(b'-no'); send(b'+yes'); receive()"
    with child(monkeypatch, script, "{{ \ud800 }}") as made:
        assert (made.alive, made.parsed) == (True, False)
        made.parse()
        assert made.parsed
        made.parse()  # it has been
        assert made.ask(b"abc") == "cba"
        with pytest.raises(ChatTemplateError, match=r"^chat template: no$"):
            made.ask(b"")
        assert made.ask(b"") == "yes"
        assert made.alive


def test_a_template_that_does_not_parse_leaves_its_process_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    with child(monkeypatch, "send(b'r'); receive(); send(b'-wrong'); receive()") as made:
        with pytest.raises(ChatTemplateError, match=r"^chat template: wrong$"):
            made.parse()
        assert (made.alive, made.parsed) == (True, False)


NONSENSE = "its process answers nonsense"


@pytest.mark.parametrize(
    "script, problem",
    [
        ("send(b'x'); receive()", NONSENSE),
        ("send(b'rr'); receive()", NONSENSE),
        ("send(b''); receive()", NONSENSE),
        ("send(b'r'); receive(); send(b'?x'); receive()", NONSENSE),
        ("send(b'r'); receive(); send(b''); receive()", NONSENSE),
        ("send(b'r'); receive(); send(b'', 1 << 60); receive()", NONSENSE),
        ("send(b'r'); receive(); send(b'!no memory'); receive()", "no memory"),
        ("os._exit(3)", "its process died (3)"),
        ("send(b'r'); receive(); send(b'+abc', 9)", "its process died (0)"),
        ("put.write(b'123')", "its process died (0)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process was killed"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", f"takes more than {CPU_SECONDS} s"),
        ("os.kill(os.getpid(), signal.SIGTERM)", f"its process died ({-signal.SIGTERM})"),
    ],
)
def test_a_process_that_is_lost(monkeypatch: pytest.MonkeyPatch, script: str, problem: str) -> None:
    with child(monkeypatch, script) as made:
        with pytest.raises(Exception, match=f"^{re.escape(problem)}$") as caught:
            made.parse()
        assert type(caught.value).__name__ == "_LostError"
        assert not made.parsed


@pytest.mark.parametrize("script", [PARSES + "time.sleep(60)", PARSES + "send(b'+'[:0], 2); time.sleep(60)"])
def test_a_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    with child(monkeypatch, script) as made:
        made.parse()
        monkeypatch.setattr(template_process, "ANSWER_SECONDS", 0.05)
        # A frame that fits nowhere, so that it cannot even be sent; and one that can.
        for frame in (b"", b"x" * (64 << 20)):
            with pytest.raises(Exception, match=r"^takes more than 0\.05 s$"):
                made.ask(frame)
        assert made.alive
    assert made._process.returncode == -signal.SIGKILL  # it was not waited for


def test_a_process_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "START_SECONDS", 0.05)
    with (
        child(monkeypatch, "time.sleep(60)") as made,
        pytest.raises(Exception, match=f"^takes more than {ANSWER_SECONDS:g} s$"),
    ):
        made.parse()


def test_an_answer_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        PARSES
        + "receive(); [(put.write(bytes([b])), put.flush()) for b in b'\\x04\\0\\0\\0\\0\\0\\0\\0+abc']; receive()"
    )
    with child(monkeypatch, script) as made:
        made.parse()
        assert made.ask(b"") == "abc"


@pytest.mark.parametrize("given, most", [(0, 10), (5, 20)])
def test_an_answer_is_bounded_by_what_was_given(monkeypatch: pytest.MonkeyPatch, given: int, most: int) -> None:
    monkeypatch.setattr(template_process, "MAX_ANSWER_BYTES", 10)
    monkeypatch.setattr(template_process, "ANSWER_BYTES_PER_GIVEN", 2)
    script = PARSES + f"receive(); send(b'+' + b'a' * {most}); receive(); send(b'+' + b'a' * {most + 1}); receive()"
    with child(monkeypatch, script) as made:
        made.parse()
        assert made.ask(b"x" * given) == "a" * most
        with pytest.raises(Exception, match=f"^{NONSENSE}$"):
            made.ask(b"x" * given)


def test_where_there_is_no_room_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = len(os.listdir("/proc/self/fd"))
    processes = TemplateProcesses("x")
    for use in (processes.start, lambda: processes.ask(None)):
        with pytest.raises(EngineBusyError) as caught:
            use()
        assert str(caught.value) == "cannot start a process for the chat template: Cannot allocate memory"
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    assert processes.ask(None) == ""  # once there is room
    processes.close()


def test_the_problem_of_a_template_is_one_line_and_not_a_long_one() -> None:
    assert str(ChatTemplateError("a\nb")) == "chat template: a\\nb"
    longest = "x" * 400
    assert str(ChatTemplateError(longest)) == f"chat template: {longest}"
    assert str(ChatTemplateError(longest + "y")) == f"chat template: {longest}…"


class Scripted:
    """A process that answers at once, or as long as it is `held` waits."""

    made: ClassVar[list[Scripted]]
    held: ClassVar[threading.Event | None] = None

    def __init__(self, source: str) -> None:
        self.alive, self.parsed, self.stops = True, False, 0
        self.entered = threading.Event()
        self.made.append(self)

    def parse(self) -> None:
        self.parsed = True

    def ask(self, frame: bytes) -> str:
        self.entered.set()
        if frame == b"wait":
            assert self.held is not None
            self.held.wait(60)
        if frame == b"fail":
            raise ChatTemplateError("no")
        if frame == b"lose":
            raise template_process._LostError("lost")
        if frame == b"interrupt":
            raise KeyboardInterrupt
        return frame.decode()

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    """Processes that are none; all that are made."""

    class Fresh(Scripted):
        made: ClassVar[list[Scripted]] = []
        held = threading.Event()

    monkeypatch.setattr(template_process, "TemplateProcess", Fresh)
    return Fresh


def test_a_process_is_kept_while_it_is_good(scripted: type[Scripted]) -> None:
    processes = TemplateProcesses("x")
    assert (processes.ask(None), processes.ask(b"a")) == ("", "a")
    with pytest.raises(ChatTemplateError, match="no"):
        processes.ask(b"fail")
    assert (len(scripted.made), scripted.made[0].stops) == (1, 0)
    with pytest.raises(ChatTemplateError, match=r"^chat template: lost$"):
        processes.ask(b"lose")
    assert (processes.ask(b"b"), len(scripted.made), scripted.made[0].stops) == ("b", 2, 1)
    with pytest.raises(KeyboardInterrupt):
        processes.ask(b"interrupt")
    assert (processes.ask(b"c"), len(scripted.made), scripted.made[1].stops) == ("c", 3, 1)
    scripted.made[2].alive = False
    assert (processes.ask(b"d"), len(scripted.made), scripted.made[2].stops) == ("d", 4, 1)
    processes.close()
    assert [one.stops for one in scripted.made] == [1, 1, 1, 1]


def test_one_that_has_not_parsed_is_not_kept(scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: Scripted) -> None:
        raise ChatTemplateError("wrong")

    monkeypatch.setattr(scripted, "parse", refuse)
    processes = TemplateProcesses("x")
    for count in (1, 2):
        with pytest.raises(ChatTemplateError, match="wrong"):
            processes.ask(None)
        assert [one.stops for one in scripted.made] == [1] * count


def in_thread(processes: TemplateProcesses, answers: list[str], frame: bytes = b"wait") -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(processes.ask(frame)))
    thread.start()
    return thread


def test_a_further_process_is_stopped_once_it_is_not_needed(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_process, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(template_process, "QUEUE_SECONDS", 0.0)
    processes, answers = TemplateProcesses("x"), list[str]()
    threads = []
    for count in range(1, MAX_PROCESSES + 1):
        threads.append(in_thread(processes, answers))
        wait_until(lambda count=count: len(scripted.made) == count and scripted.made[-1].entered.is_set())  # type: ignore[misc]
        processes.start()  # one is there
        assert len(scripted.made) == count
    with pytest.raises(EngineBusyError, match=r"^the chat template is busy with other requests$"):
        processes.ask(b"a")
    assert len(scripted.made) == MAX_PROCESSES
    assert scripted.held is not None
    scripted.held.set()
    for thread in threads:
        thread.join()
    assert answers == ["wait"] * MAX_PROCESSES
    assert sorted(one.stops for one in scripted.made) == [0] + [1] * (MAX_PROCESSES - 1)
    assert (processes.ask(b"a"), len(scripted.made)) == ("a", MAX_PROCESSES)
    processes.close()
    assert [one.stops for one in scripted.made] == [1] * MAX_PROCESSES


def test_who_is_patient_gets_the_process_of_another(scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "PATIENCE_SECONDS", 60.0)
    processes, answers = TemplateProcesses("x"), list[str]()
    first = in_thread(processes, answers)
    wait_until(lambda: bool(scripted.made) and scripted.made[0].entered.is_set())
    second = in_thread(processes, answers, b"next")
    assert scripted.held is not None
    scripted.held.set()
    for thread in (first, second):
        thread.join(10)
        assert not thread.is_alive()
    assert (answers, len(scripted.made)) == (["wait", "next"], 1)
    processes.close()


def test_one_that_is_at_work_when_all_are_closed_is_stopped_then(scripted: type[Scripted]) -> None:
    processes, answers = TemplateProcesses("x"), list[str]()
    thread = in_thread(processes, answers)
    wait_until(lambda: bool(scripted.made) and scripted.made[0].entered.is_set())
    processes.close()
    assert scripted.made[0].stops == 0
    assert scripted.held is not None
    scripted.held.set()
    thread.join()
    assert (answers, scripted.made[0].stops) == (["wait"], 1)


def test_modules_of_the_folder_that_it_is_started_in_are_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may serve from a folder of downloads: a file of a library's name in it must not run."""
    for name in ("json", "jinja2", "resource", "struct"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with template("{{ messages[0].content }}") as made:
        assert ask(made) == "hello"
    assert not (tmp_path / "ran").exists()


def test_a_template_that_wants_arguments_as_text_has_them() -> None:
    call = {"function": {"name": "go", "arguments": {"to": "Zürich"}}}
    talk: list[dict[str, object]] = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    with template("{{ 'go' + messages[0].tool_calls[0].function.arguments }}") as made:
        assert made.render(talk) == 'go{"to": "Zürich"}'
    with template("{{ messages[0].tool_calls[0].function.arguments.to }}") as made:
        assert made.render(talk) == "Zürich"
    source = "{{ raise_exception(messages[0].tool_calls[0].function.arguments|string) }}"
    with template(source) as made, pytest.raises(ChatTemplateError) as caught:
        made.render(talk)
    assert str(caught.value) == "chat template: {'to': 'Zürich'}"  # what it said of the object


def test_reasoning_has_both_its_names() -> None:
    source = "{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}"
    with template(source) as made:
        assert made.render([{"role": "assistant", "content": "a", "reasoning_content": "Hm"}]) == "Hm|Hm"
        said = {"role": "assistant", "content": "a", "reasoning_content": "Hm", "tool_calls": [{}]}
        assert made.render([said]) == "|Hm"
        assert made.render([{**said, "thinking": "mine"}]) == "mine|Hm"
        assert made.render([{"role": "user", "content": "a"}]) == "|"
