"""Adapters in the engine: each request gets what it gets alone, no cache is another adapter's, none is unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

import rocmforge
from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import RequestError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.changes import Changes
from rocmforge.compiler.kept_adapters import parse_adapter
from rocmforge.library.adapters import Adapter
from rocmforge.runtime.engine.embeddings import AdapterScales, EmbeddingRequest
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.kv_cache import root_key
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.engine.worker.wire import Submit, decode, encode
from rocmforge.tests.support.adapters import DOWN, OUT, UP, Q, pairs, write_gguf_adapter
from rocmforge.tests.support.engine_harness import CONTEXT, CountingMetrics, ended, load, serving
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model

PREFIX = tuple(range(5, 45))
CHOICES: tuple[AdapterScales, ...] = (
    (),
    (("sql", 1.0),),
    (("style", 1.0),),
    (("sql", 0.5), ("style", -1.5)),
    (("sql", 0.5),),
)


@pytest.fixture(scope="module")
def bundle(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    folder = tmp_path_factory.mktemp("engine")
    path = write_model(folder / "m.gguf", context_length=CONTEXT)
    sql = write_gguf_adapter(folder / "1.gguf", pairs(1, (Q, DOWN, UP), size=0.2))
    style = write_gguf_adapter(folder / "2.gguf", pairs(2, (Q, OUT), 7, 0.3))
    changes = Changes(adapters=(parse_adapter(f"sql={sql}"), parse_adapter(f"style={style}")))
    with compiled(path, build_cache, folder / "m.rfb", changes) as found:
        yield found


def requests(max_tokens: int = 20) -> list[GenerationRequest]:
    """Prompts that begin alike, each of all adapters."""
    return [
        GenerationRequest((*PREFIX, number), max_tokens, SamplingParams(0.8, seed=number), adapters=adapters)
        for number in range(3)
        for adapters in CHOICES
    ]


def test_each_request_of_a_batch_gets_what_it_gets_alone(bundle: Bundle) -> None:
    """Alone, whole, one thread; then together: in chunks, with drafts, and a cache so small that some are preempted."""
    tokenizer, asked = load_tokenizer(bundle), [dataclasses.replace(one, ignore_eos=True) for one in requests(60)]
    alone = []
    for one in asked:
        with serving(load(bundle, 16, 1), tokenizer) as engine:
            alone.append(ended(engine.submit(one)))
    assert len({state.tokens for state in alone}) == len(asked)
    metrics = CountingMetrics()
    limits = EngineLimits(draft_tokens=3)
    program = load(bundle, 24, 2, max_batch_tokens=24, max_sequences=8)
    with serving(program, tokenizer, metrics=metrics, limits=limits) as engine:
        together = [ended(generation) for generation in [engine.submit(one) for one in asked]]
    assert [state.tokens for state in together] == [state.tokens for state in alone]
    assert metrics.preemptions > 0


def test_what_was_computed_is_used_again_by_the_same_adapters_alone(bundle: Bundle) -> None:
    with serving(load(bundle, 64), load_tokenizer(bundle)) as engine:
        first = [ended(engine.submit(one)).cached_tokens for one in requests(1)[: len(CHOICES)]]
        second = [ended(engine.submit(one)).cached_tokens for one in requests(1)[len(CHOICES) : 2 * len(CHOICES)]]
        other = GenerationRequest((*PREFIX, 9), 1, adapters=(("style", -1.5), ("sql", 0.5)))  # the same, turned round
        none = GenerationRequest((*PREFIX, 9), 1, adapters=(("sql", 0.0),))
        last = [ended(engine.submit(one)).cached_tokens for one in (other, none)]
    assert (first, second, last) == ([0] * len(CHOICES), [32] * len(CHOICES), [32, 32])


def test_keys_of_blocks() -> None:
    keys = [root_key("a"), root_key("b"), *(root_key("a", one) for one in CHOICES[1:])]
    assert len(set(keys)) == len(keys)
    assert root_key("a", (("sql", 0.0),)) == root_key("a")


def test_embeddings_and_scores(bundle: Bundle) -> None:
    with serving(load(bundle, 64), load_tokenizer(bundle)) as engine:
        asked = [EmbeddingRequest(PREFIX, "mean", adapters=adapters) for adapters in CHOICES]
        alone = [engine.embed([one])[0].result(60) for one in asked]
        together = [one.result(60) for one in engine.embed(asked)]
    for one, other in zip(alone, together, strict=True):
        assert one is not None
        assert other is not None
        assert one.tobytes() == other.tobytes()
    assert len({one.tobytes() for one in alone if one is not None}) == len(CHOICES)


@pytest.mark.parametrize(
    ("adapters", "problem"),
    [
        ((("sq", 1.0),), "adapter: expected one of sql, style, found sq"),
        ((("sql", 1.0), ("sql", 2.0)), "adapter: expected each adapter once, found sql twice"),
        ((("sql", float("nan")),), "adapter: expected a scale from -1e+06 to 1e+06, found nan"),
        ((("sql", 1e7),), "adapter: expected a scale from -1e+06 to 1e+06, found 1e+07"),
    ],
)
def test_adapters_that_are_none(bundle: Bundle, adapters: AdapterScales, problem: str) -> None:
    with serving(load(bundle, 16), load_tokenizer(bundle)) as engine:
        for submit in (
            lambda: engine.submit(GenerationRequest(PREFIX, 1, adapters=adapters)),
            lambda: engine.embed([EmbeddingRequest(PREFIX, "mean", adapters=adapters)]),
        ):
            with pytest.raises(RequestError) as caught:
                submit()
            assert str(caught.value) == problem


def test_adapters_travel_to_a_worker() -> None:
    texts = Submit(1, (7,), (requests()[3],))
    vectors = Submit(1, (7,), (EmbeddingRequest((1, 2), None, adapters=CHOICES[3]),))
    for message in (texts, vectors):
        assert decode(encode(message)) == message


def test_a_program_chooses_adapters(bundle: Bundle) -> None:
    params = rocmforge.GenerationParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    with rocmforge.load(bundle.path, device="host", contexts=4) as model:
        choices: list[Adapter] = [None, "sql", {"style": 1.0}, {"sql": 0.5, "style": -1.5}]
        alone = [model.generate(PREFIX, params, adapter=one) for one in choices]
        together = model.generate([PREFIX] * 4, params, adapter=choices)
        assert [one.token_ids for one in together] == [one.token_ids for one in alone]
        assert len({one.token_ids for one in alone}) == 4
        chats = [model.chat([{"role": "user", "content": "Hi"}], params, adapter=one).content for one in choices]
        assert len(set(chats)) > 1
        vectors = model.embed([PREFIX] * 2, adapter=[None, "sql"])
        assert not np.array_equal(vectors[0], vectors[1])
        scores = model.score([PREFIX] * 2, [PREFIX[:2]] * 2, adapter=["style", None])
        assert scores[0].logprobs != scores[1].logprobs
        for wrong, problem in (
            ("other", "expected one of sql, style, found other"),
            (["sql"], "expected 2, one for each input, found 1"),
            (3, "expected a name, or scales by name, found 3"),
            ({"sql": True}, "expected a name, or scales by name, found {'sql': True}"),
        ):
            with pytest.raises(RequestError, match=f"^adapter: {problem}"):
                model.generate([PREFIX] * 2, params, adapter=wrong)  # type: ignore[arg-type]
