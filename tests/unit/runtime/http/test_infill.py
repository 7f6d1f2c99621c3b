"""Filling in: the tokens of the prompt, by every API that has a suffix."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest

from rocmforge.artifacts.tokenizer_config import InfillTokens
from rocmforge.tests.support.fake_engine import BOS_ID, FakeEngine, FakeTokenizer, make_app

PREFIX, SUFFIX, MIDDLE, REPO, SEPARATOR = range(290, 295)
MARKS = InfillTokens(prefix=PREFIX, suffix=SUFFIX, middle=MIDDLE)
FILES = InfillTokens(prefix=PREFIX, suffix=SUFFIX, middle=MIDDLE, repo=REPO, separator=SEPARATOR)
CONTEXT = 128


class Served:
    """A model that has these tokens."""

    def __init__(self, infill: InfillTokens, add_bos: bool = True) -> None:
        self.engine = FakeEngine()
        tokenizer = FakeTokenizer()
        tokenizer.config.infill = infill
        tokenizer.config.add_bos = add_bos
        self.client = falcon.testing.TestClient(make_app(self.engine, tokenizer=tokenizer))

    def post(self, path: str, **body: Any) -> falcon.testing.Result:
        return self.client.simulate_post(path, json=body)

    def prompt(self, path: str, **body: Any) -> tuple[int, ...]:
        result = self.post(path, **body)
        assert result.status_code == 200, result.text
        return self.engine.last.request.prompt_token_ids


def ids(*parts: str | int) -> tuple[int, ...]:
    return tuple(i for part in parts for i in ([part] if isinstance(part, int) else part.encode()))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": "def f(", "input_suffix": "return x"}),
        ("/infill", {"input_prefix": "def ", "prompt": "f(", "input_suffix": "return x", "input_extra": []}),
        ("/v1/completions", {"model": "org/tiny:q4", "prompt": "def f(", "suffix": "return x"}),
        ("/api/generate", {"model": "org/tiny:q4", "prompt": "def f(", "suffix": "return x", "stream": False}),
    ],
)
def test_every_api_asks_for_the_middle(path: str, body: dict[str, Any]) -> None:
    wanted = ids(PREFIX, "def f(", SUFFIX, "return x", MIDDLE)
    assert Served(MARKS).prompt(path, **body) == (BOS_ID, *wanted)
    assert Served(FILES, add_bos=False).prompt(path, **body) == wanted


def test_texts_of_the_user_are_no_tokens_of_the_model() -> None:
    found = Served(MARKS).prompt("/infill", input_prefix="<s>", input_suffix="<s>")
    assert found == ids(BOS_ID, PREFIX, "<s>", SUFFIX, "<s>", MIDDLE)


def test_other_files_come_first() -> None:
    extra = [{"filename": "a.h", "text": "int a;"}, {"text": "b"}]
    body = {"input_prefix": "p", "input_suffix": "s", "input_extra": extra}
    gap = (PREFIX, "p", SUFFIX, "s", MIDDLE)
    named = ids(REPO, "repository\n", SEPARATOR, "a.h\nint a;", SEPARATOR, "file\nb", SEPARATOR, "file\n", *gap)
    assert Served(FILES, add_bos=False).prompt("/infill", **body, n_predict=4) == named
    parted = ids("\n\n--- snippet ---\n\nint a;", "\n\n--- snippet ---\n\nb", *gap)
    assert Served(MARKS, add_bos=False).prompt("/infill", **body, n_predict=4) == parted


@pytest.mark.parametrize(
    ("prefix", "suffix", "kept"),
    [
        (300, 300, (75, 25)),
        (300, 10, (90, 10)),
        (10, 300, (10, 90)),
        (60, 40, (60, 40)),
    ],
)
def test_what_stands_next_to_the_gap_is_kept(prefix: int, suffix: int, kept: tuple[int, int]) -> None:
    before, after = "".join(chr(97 + i % 26) for i in range(prefix)), "".join(chr(65 + i % 26) for i in range(suffix))
    room = CONTEXT - 24 - 4  # of a context of 128, with 24 tokens to come, BOS and three marks
    assert room == sum(kept)
    found = Served(MARKS).prompt(
        "/infill", input_prefix=before, input_suffix=after, n_predict=24, input_extra=[{"text": "x" * 300}]
    )
    assert found == ids(BOS_ID, PREFIX, before[-kept[0] :], SUFFIX, after[: kept[1]], MIDDLE)


def test_of_other_files_the_end_is_kept() -> None:
    extra = [{"text": "x" * 300 + "END"}]
    found = Served(MARKS).prompt("/infill", input_prefix="p", input_suffix="s", n_predict=24, input_extra=extra)
    assert found[-8:] == ids("END", PREFIX, "p", SUFFIX, "s", MIDDLE)
    assert len(found) == CONTEXT - 24


def test_the_middle_has_room_where_nobody_says_how_much() -> None:
    served = Served(MARKS)
    assert len(served.prompt("/infill", input_prefix="p" * 500, input_suffix="")) == CONTEXT - CONTEXT // 4
    assert served.engine.last.request.max_tokens == CONTEXT // 4
    assert len(served.prompt("/infill", input_prefix="p" * 500, input_suffix="", n_predict=CONTEXT)) == CONTEXT // 2


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "input_suffix: the model has no tokens for filling in"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix: the model has no tokens for filling in"),
        ("/api/generate", {"model": "org/tiny:q4", "prompt": "a", "suffix": "b"}, "suffix: the model has no tokens"),
    ],
)
@pytest.mark.parametrize("infill", [InfillTokens(), InfillTokens(prefix=PREFIX, suffix=SUFFIX)])
def test_a_model_without_the_tokens_says_so(path: str, body: dict[str, Any], words: str, infill: InfillTokens) -> None:
    result = Served(infill).post(path, **body)
    assert result.status_code == 400
    assert words in result.text


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/infill", {"input_suffix": "b"}, "input_prefix"),
        ("/infill", {"input_prefix": "a"}, "input_suffix"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "prompt": [1]}, "prompt"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "prompt": "p" * 97}, "prompt: expected a beginning"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": {}}, "input_extra"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": [{}]}, "input_extra[0]"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"text": 1}]}, "input_extra[0].text"),
        ("/v1/completions", {"prompt": [1], "suffix": "b"}, "prompt: expected texts beside a suffix"),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "echo": True, "logprobs": 1}, "suffix: a prompt that"),
    ],
)
def test_refused(path: str, body: dict[str, Any], words: str) -> None:
    served = Served(FILES)
    result = served.post(path, **body)
    assert (result.status_code, served.engine.generations) == (400, [])
    assert words in result.text


def test_an_echo_is_the_text_before_the_gap() -> None:
    document = Served(MARKS).post("/v1/completions", prompt="def f(", suffix="x", echo=True).json
    assert document["choices"][0]["text"] == "def f( Paris, in France."


def test_the_answer_streams() -> None:
    text = Served(MARKS).post("/infill", input_prefix="a", input_suffix="b", stream=True, n_predict=2).text
    first, second, _ = (json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: "))
    assert first["content"] + second["content"] == " Paris,"
    assert "[DONE]" not in text
