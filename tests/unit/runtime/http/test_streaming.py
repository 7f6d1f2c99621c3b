"""What a streamed answer is made of: lines that every client cuts alike, and which of them leave together."""

from __future__ import annotations

import json

import falcon.testing
import pytest

from rocmforge.runtime.http.core.encoding import TextFrame, named_sse, ndjson, sse
from rocmforge.runtime.http.core.job import Job
from rocmforge.runtime.http.core.streaming import DONE, SEND_EVENTS, Encode
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

# All that str.splitlines takes for the end of a line, and characters that share their bytes.
ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
TEXT = f'a{ENDS}b\u00c5\u2027\u202a\u0084\U00010085 "\\ \u00e9\u2029'


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (sse({"text": TEXT}), 2),
        (named_sse("delta", {"text": TEXT}), 3),
        (ndjson({"text": TEXT}), 1),
    ],
    ids=["sse", "named", "ndjson"],
)
def test_an_event_is_cut_nowhere(data: bytes, lines: int) -> None:
    """By Python's rule, which httpx has for its lines, and by the rule of the standard."""
    cut = data.decode().splitlines()
    assert cut == data.decode().removesuffix("\n").split("\n")
    assert len(cut) == lines
    document = next(line.removeprefix("data: ") for line in cut if line.endswith("}"))
    assert json.loads(document) == {"text": TEXT}


def test_half_a_character_becomes_a_question_mark() -> None:
    """In JSON as short as any other."""
    assert ndjson({"text": "a\ud800\u00e9", "n": [1, 2]}) == '{"text":"a?\u00e9","n":[1,2]}\n'.encode()


def test_all_other_text_is_sent_as_it_is() -> None:
    assert ndjson("\u00e9\u2027\u4e2d\u00c2 ") == '"\u00e9\u2027\u4e2d\u00c2 "\n'.encode()


@pytest.mark.parametrize("text", ["a", "", '"\\', "\u2028\x85", "\x00", "text", "\ud800", "ü", "\x7f\n"])
def test_an_event_around_a_text_is_as_if_it_were_made_whole(text: str) -> None:
    def whole(text: str) -> bytes:
        return sse({"id": 'a "b"', "choices": [{"text": text, "index": 0}], "usage": None})

    assert TextFrame(whole).of(text) == whole(text)


@pytest.mark.parametrize("count", [1, 3])
def test_what_ends_a_stream_leaves_with_its_last_event(count: int) -> None:
    """Of the last output that ends, where there are several."""
    sent: list[bytes] = []

    def send(job: Job, encode: Encode) -> None:
        sent.extend(map(encode, job.events(1.0)))

    client = falcon.testing.TestClient(make_app(FakeEngine()))
    asked = {"prompt": "a", "stream": True, "n": count}
    rest = client.simulate_post("/v1/completions", json=asked, extras={SEND_EVENTS: send}).content
    assert [DONE in chunk for chunk in sent] == [False] * (len(sent) - 1) + [True]
    assert sent[-1].endswith(DONE)
    assert sum(b'"finish_reason":"' in chunk for chunk in sent) == count
    assert DONE not in rest
