"""What a model's methods make of an engine's events, and of inputs that are none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.errors import RequestError, RocmforgeError
from rocmforge.library.answers import ChatPiece
from rocmforge.library.images import SeenPrompt
from rocmforge.library.model import Model
from rocmforge.library.params import GenerationParams
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import SamplingParams
from rocmforge.runtime.engine.pictures import PlacedPicture
from rocmforge.runtime.pictures.patches import Picture
from rocmforge.tests.support.fake_engine import FakeEngine, FakeTemplate, FakeTokenizer
from rocmforge.tests.support.tokenizers import TINY

TALK = [{"role": "user", "content": "hi"}]
PICTURE = Picture(1, 1, bytes(3))
PLACED = PlacedPicture(PICTURE, PICTURE.digest(), ((0, 1),), (1, 1))
SEEN, BLIND = SeenPrompt((0, 65), (PLACED,)), SeenPrompt((66, 65), ())


def model_of(engine: FakeEngine) -> Model:
    fakes: tuple[Any, Any, Any] = engine, FakeTokenizer(), FakeTemplate()
    return Model(*fakes, contextlib.ExitStack())


Ask = Callable[[Model, Any], object]
ASKS: list[tuple[str, Ask]] = [
    ("text", lambda model, given: model.embed(given)),
    ("text", lambda model, given: model.embed(["a", given])),
    ("prompt", lambda model, given: model.score(given, "a")),
    ("continuation", lambda model, given: model.score(["a", "b"], ["c", given])),
]


@pytest.mark.parametrize(("name", "ask"), ASKS)
def test_images_are_never_left_out(name: str, ask: Ask) -> None:
    engine = FakeEngine()
    with pytest.raises(RequestError, match=rf"^{name}: expected no images$"):
        ask(model_of(engine), SEEN)
    assert (engine.generations, engine.embeddings) == ([], [])


def test_what_generates_sees_images() -> None:
    engine = FakeEngine()
    model = model_of(engine)
    model.generate([SEEN, BLIND])
    list(model.stream(SEEN))
    asked = [(one.request.prompt_token_ids, one.request.pictures) for one in engine.generations]
    assert asked == [(SEEN.token_ids, (PLACED,)), (BLIND.token_ids, ()), (SEEN.token_ids, (PLACED,))]
    model.embed(BLIND)  # has none to leave out
    assert engine.embeddings[-1].request.prompt_token_ids == BLIND.token_ids


def pieces_until(problem: str, stream: Iterable[ChatPiece]) -> list[ChatPiece]:
    """All that come before it is raised."""
    pieces: list[ChatPiece] = []
    with pytest.raises(RocmforgeError, match=problem):
        pieces.extend(stream)  # keeps what came before
    return pieces


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (Failure("the device is lost"), r"^generation failed: the device is lost$"),
        (Failure("regex: nothing can match it", "regex", "RequestError"), r"^regex: nothing can match it$"),
    ],
)
def test_a_chat_that_fails_has_no_answer(failure: Failure, problem: str) -> None:
    pieces = pieces_until(problem, model_of(FakeEngine(fail_after=2, failure=failure)).stream_chat(TALK))
    assert ("".join(piece.content for piece in pieces), [piece.answer for piece in pieces]) == (" Paris,", [None] * 3)


def test_a_chat_that_is_cancelled_has_no_answer() -> None:
    engine = FakeEngine(token_seconds=0.01)
    stream = model_of(engine).stream_chat(TALK)
    next(stream)
    engine.last.cancel()
    pieces = pieces_until(r"^generation failed: the model was closed$", stream)
    assert {piece.answer for piece in pieces} == {None}


def test_a_chat_that_ends_has_its_answer_last() -> None:
    for end in ("eos", "stop", "length"):
        *pieces, last = model_of(FakeEngine(end=end)).stream_chat(TALK)
        assert [piece.answer for piece in pieces] == [None] * 4
        assert last.answer is not None
        assert (last.answer.content, last.answer.finish_reason) == (" Paris, in France.", end)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (TALK[0], "messages: expected a list of messages, found {'role': 'user', 'content': 'hi'}"),
        ("hi", "messages: expected a list of messages, found 'hi'"),
        (5, "messages: expected a list of messages, found 5"),
        (["hi"], "messages[0]: expected a dict, found 'hi'"),
        ([5], "messages[0]: expected a dict, found 5"),
        ([TALK, 5], "messages: expected a list of messages, found 5"),
        ([TALK, []], "messages: expected at least one message, found none"),
        ([], "messages: expected at least one message, found none"),
    ],
)
def test_chats_that_are_none(messages: Any, problem: str) -> None:
    engine = FakeEngine()
    with pytest.raises(RequestError) as caught:
        model_of(engine).chat(messages)
    assert (str(caught.value), engine.generations) == (problem, [])


def test_one_chat_and_several() -> None:
    model, params = model_of(FakeEngine()), GenerationParams()
    assert model.chat(TALK, params).content == " Paris, in France."
    assert [one.content for one in model.chat([TALK, TALK], params)] == [" Paris, in France."] * 2


NO_TEXTS: list[Any] = [5, None, b"x", 1.5, ["a"], object]


@pytest.mark.parametrize("given", NO_TEXTS, ids=repr)
def test_what_is_no_text(given: Any) -> None:
    source: Any = given or 0  # None is none of those
    asks: list[tuple[str, Ask]] = [
        ("text", lambda model, given: model.encode(given)),
        ("text", lambda model, given: model.with_images(given, [])),
        ("query", lambda model, given: model.rank(given, ["a"])),
        ("documents[1]", lambda model, given: model.rank("a", ["a", given])),
        ("regex", lambda model, given: model.generate("a", GenerationParams(regex=source))),
        ("grammar", lambda model, given: model.chat(TALK, GenerationParams(grammar=source))),
    ]
    engine = FakeEngine()
    for name, ask in asks:
        with pytest.raises(RequestError) as caught:
            ask(model_of(engine), given)
        found = source if name in ("regex", "grammar") else given
        assert str(caught.value) == f"{name}: expected a text, found {found!r}"
    assert (engine.generations, engine.embeddings) == ([], [])


@pytest.mark.parametrize("given", [5, None, "ab", b"ab", {"a"}], ids=repr)
def test_documents_that_are_no_list(given: Any) -> None:
    with pytest.raises(RequestError) as caught:
        model_of(FakeEngine()).rank("a", given)
    assert str(caught.value) == f"documents: expected a list of texts, found {given!r}"


def test_documents_that_leave_no_mark() -> None:
    """A rank needs a character that stands for nothing else, where a text has that of a control token."""
    fakes: tuple[Any, Any, Any] = FakeEngine(), TINY, FakeTemplate()
    model = Model(*fakes, contextlib.ExitStack(), "{query}|{document}")
    every = "".join(map(chr, (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900))))
    with pytest.raises(RequestError, match=r"^documents\[1\]: expected not every character that is for private use$"):
        model.rank("a", ["b", f"<|im_end|>{every}"])


@pytest.mark.parametrize("given", [*NO_TEXTS, "x", {}, SamplingParams()], ids=repr)
def test_params_that_are_none(given: Any) -> None:
    engine = FakeEngine()
    asks: list[Ask] = [
        lambda model, given: model.generate("a", given),
        lambda model, given: list(model.stream("a", given)),
        lambda model, given: model.chat(TALK, given),
    ]
    for ask in asks:
        with pytest.raises(RequestError, match=r"^params: expected GenerationParams, found ") as caught:
            ask(model_of(engine), given)
        assert caught.value.parameter == "params"
    assert engine.generations == []


@pytest.mark.parametrize("given", [5, None, 1.5, "ab", b"ab", object], ids=repr)
def test_token_ids_that_are_none(given: Any) -> None:
    model = model_of(FakeEngine())
    for one in (given, [65, given]) if given != 5 else (given,):
        with pytest.raises(RequestError) as caught:
            model.decode(one)
        assert str(caught.value) == f"token_ids: expected token ids, found {given!r}"
    ids: list[Any] = [65, np.int64(66)]
    assert model.decode(iter(ids)) == model.decode((65, 66)) == "AB"
