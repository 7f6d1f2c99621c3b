"""`rfc run`: what is generated, printed and remembered. On a real terminal: e2e/test_terminal.py."""

from __future__ import annotations

import contextlib
import io
import queue
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import RocmforgeError, UsageError
from rocmforge.library import loading
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams, TokenEvent
from rocmforge.runtime.engine.loading import EngineOptions
from rocmforge.runtime.terminal import RunOptions, run_bundle

CONTEXT = 20
SAMPLING = SamplingParams(0.5)


class FakeInbox:
    """Gives the pieces of an answer, an exception among them raised instead, and then its end."""

    def __init__(self, pieces: Sequence[str | type[BaseException] | None], error: str | None) -> None:
        self._pieces = iter(pieces)
        self._error = None if error is None else Failure(error)

    def get(self, timeout: float | None = None) -> TokenEvent:
        try:
            piece = next(self._pieces)
        except StopIteration:
            return TokenEvent(None, "", True, "length" if self._error is None else "failed", self._error)
        if isinstance(piece, type):
            raise piece
        if piece is None:
            raise queue.Empty
        return TokenEvent(1, piece)


class FakeEngine:
    """Answers each request with its pieces."""

    max_context = CONTEXT
    vocab_size = 300

    def __init__(self, *answers: Sequence[str | type[BaseException] | None]) -> None:
        self.requests: list[GenerationRequest] = []
        self.done: list[Any] = []
        self.error: str | None = None
        self._answers = iter(answers)

    def start(self) -> None:
        self.done.append("started")

    def stop(self, timeout: float) -> None:
        self.done.append(("stopped", timeout))

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[Any]:
        self.requests += requests
        inbox = FakeInbox(next(self._answers), self.error)
        return [SimpleNamespace(inbox=inbox, cancel=lambda: self.done.append("cancelled"))]


class FakeTokenizer:
    """A token for each character."""

    config = SimpleNamespace(bos_token="<")
    end_texts = ("<end>",)

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.control_texts = SimpleNamespace(hide=lambda value, source: (value, f"mark of {source}"), texts=())

    def encode(self, text: str, add_special: bool = True, mark: str = "") -> list[int]:
        self.asked.append((text, add_special, mark))
        return [*([0] if add_special else []), *map(ord, text)]


class FakeTemplate:
    source = "source"
    takes_tools = True

    def __init__(self, before: str = "<") -> None:
        self.before, self.closed = before, 0

    def render(self, messages: Sequence[Mapping[str, str]], **options: object) -> str:
        return self.before + "|".join(f"{one['role'][0]}{one['content']}" for one in messages)

    def close(self) -> None:
        self.closed += 1


Run = Callable[..., tuple[FakeTokenizer, FakeTemplate]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run an engine with a prompt, or with lines of a chat."""

    def of(
        engine: FakeEngine,
        prompt: str | None = None,
        lines: str = "",
        template: FakeTemplate | None = None,
        max_context: int | None = None,
    ) -> tuple[FakeTokenizer, FakeTemplate]:
        tokenizer, template = FakeTokenizer(), template or FakeTemplate()
        bundle = SimpleNamespace(layout=SimpleNamespace(max_seq_len=99), manifest=SimpleNamespace(parts={}))

        @contextlib.contextmanager
        def open_bundle(path: Path, keep: tuple[str, ...]) -> Iterator[Any]:
            assert (path, keep) == (Path("b.rfb"), ("merges.bin",))
            yield bundle

        def load_engine(*arguments: Any, draft: Any) -> FakeEngine:
            of_bundle, options, of_tokenizer, _, say = arguments
            assert (of_bundle, of_tokenizer, draft) == (bundle, tokenizer, None)
            device = DeviceOptions("host", prove_with_first_step=prompt is not None)
            assert options == EngineOptions(device, max_context, max_context or 99)
            say("on the host")
            return engine

        monkeypatch.setattr(loading, "open_bundle", open_bundle)
        monkeypatch.setattr(loading, "load_engine", load_engine)
        monkeypatch.setattr(loading, "load_tokenizer", lambda bundle, at_once: tokenizer)
        monkeypatch.setattr(loading, "load_chat_template", lambda bundle: template)
        monkeypatch.setattr(loading, "rerank_template", lambda bundle: None)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        run_bundle(RunOptions(Path("b.rfb"), prompt, 12, SAMPLING, DeviceOptions("host"), max_context))
        return tokenizer, template

    return of


def test_a_prompt_is_continued(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(["one", None, " two"])
    tokenizer, _ = run(engine, "abc")
    assert capsys.readouterr() == ("one two\n", "on the host\n")
    assert engine.requests == [GenerationRequest((0, 97, 98, 99), 12, SAMPLING)]
    assert engine.done == ["started", ("stopped", 0.0)]
    assert tokenizer.asked == [("abc", True, "")]


@pytest.mark.parametrize("length, tokens", [(7, 12), (8, 11), (CONTEXT - 2, 1)])
def test_no_more_is_asked_for_than_fits(run: Run, length: int, tokens: int) -> None:
    engine = FakeEngine([])
    run(engine, "x" * length, max_context=50)
    assert [request.max_tokens for request in engine.requests] == [tokens]


def test_a_prompt_that_is_too_long(run: Run) -> None:
    engine = FakeEngine()
    with pytest.raises(UsageError) as caught:
        run(engine, "x" * (CONTEXT - 1))
    assert str(caught.value) == "PROMPT: expected fewer than 20 tokens (the context), found 20"
    assert engine.done == ["started", ("stopped", 0.0)]


def test_a_prompt_without_tokens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTokenizer, "encode", lambda *arguments: [])
    with pytest.raises(UsageError, match=r"^PROMPT: expected a text, found nothing$"):
        run(FakeEngine(), "")


def test_an_answer_that_fails(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(["half"])
    engine.error = "the device is lost"
    with pytest.raises(RocmforgeError, match=r"^generation failed: the device is lost$"):
        run(engine, "a")
    assert capsys.readouterr().out == "half"


def test_ctrl_c_ends_a_prompt(run: Run) -> None:
    engine = FakeEngine(["half", KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        run(engine, "a")
    assert engine.done == ["started", "cancelled", ("stopped", 0.0)]


def test_a_chat_remembers_what_was_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(["A", "B"], ["C", KeyboardInterrupt], ["D"])
    tokenizer, template = run(engine, lines="x\n  \n\ny\nz")
    assert tokenizer.asked == [
        ("<ux", False, "mark of source"),
        ("<ux|aAB|uy", False, "mark of source"),
        ("<ux|aAB|uy|aC|uz", False, "mark of source"),
    ]
    assert capsys.readouterr().out == "AB\nC\nD\n"
    assert template.closed == 1
    assert engine.done == ["started", "cancelled", ("stopped", 0.0)]


@pytest.mark.parametrize("bos, add", [("<", False), ("", True), ("[", True)])
def test_the_first_token_is_there_once(run: Run, monkeypatch: pytest.MonkeyPatch, bos: str, add: bool) -> None:
    monkeypatch.setattr(FakeTokenizer, "config", SimpleNamespace(bos_token=bos))
    tokenizer, _ = run(FakeEngine(["A"]), lines="x\n")
    assert tokenizer.asked == [("<ux", add, "mark of source")]


def test_the_oldest_exchange_of_a_long_chat_is_forgotten(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """19 tokens fit before an answer of one at least."""
    engine = FakeEngine(["bbbbb"], ["c"], ["d"])
    tokenizer, _ = run(engine, lines="aaaaa\nccc\neee\n")
    texts = [text for text, _, _ in tokenizer.asked]
    assert texts == ["<uaaaaa", "<uaaaaa|abbbbb|uccc", "<uaaaaa|abbbbb|uccc|ac|ueee", "<uccc|ac|ueee"]
    assert [len(text) for text in texts] == [7, 19, 27, 13]
    assert capsys.readouterr().err == (
        "on the host\n(the conversation is too long: its oldest exchange is forgotten)\n"
    )


def test_a_message_that_is_too_long_alone(run: Run) -> None:
    problem = r"^expected a message of fewer than 20 tokens \(the context\), found 20$"
    with pytest.raises(UsageError, match=problem):
        run(FakeEngine(), lines="x" * 18 + "\n")
    with pytest.raises(UsageError, match=problem):
        run(FakeEngine(["A"]), lines="a\n" + "x" * 18 + "\n")


class Terminal(io.StringIO):
    """A terminal on which somebody presses Ctrl-C at the second line."""

    def __init__(self, text: str, interrupted: bool) -> None:
        super().__init__(text)
        self._interrupted, self._reads = interrupted, 0

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        self._reads += 1
        if self._interrupted and self._reads == 2:
            raise KeyboardInterrupt
        return super().readline()


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_terminal_is_prompted(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: bool
) -> None:
    monkeypatch.setattr(io, "StringIO", lambda text: Terminal(text, interrupted))
    run(FakeEngine(["A"], ["B"]), lines="x\n")
    assert capsys.readouterr().out == "> A\n> \n"


def test_what_cannot_be_encoded_is_replaced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    run(FakeEngine(["é\ud800"]), "a")
    sys.stdout.flush()
    assert written.getvalue() == b"??\n"
