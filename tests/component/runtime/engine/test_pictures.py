"""Requests with pictures on small models: the same bits alone, beside others, in chunks and after preemption, and
blocks that are shared with the same picture alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import EngineBusyError, RequestError
from rocmforge.artifacts.vision import Vision
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams, events_of
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import ended, load, serving
from rocmforge.tests.support.pictures import VISION, encoder_of, picture, placed, seeing_model

IDS = tuple(int(one) for one in np.random.default_rng(5).integers(1, 96, 200))
DEEP = {"qwen3vl": 2}
MODELS = ("qwen3vl", "qwen35", "llama", "gemma3")
"""Several axes, and columns for layers; state beside; neither; and tokens of a picture that see those after them."""


@pytest.fixture(scope="module", params=MODELS)
def seeing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache
) -> Iterator[Bundle]:
    name = request.param
    vision = replace(VISION, deepstack=DEEP.get(name, 0), both_ways=name == "gemma3")
    layers = {"qwen35": 4, "gemma3": 6}.get(name, 3)  # as many as there has to be for one that sees all
    path = tmp_path_factory.mktemp(name) / "model.gguf"
    with seeing_model(path, name, build_cache, vision, layers=layers) as bundle:
        yield bundle


@pytest.fixture
def words(seeing: Bundle) -> Tokenizer:
    return load_tokenizer(seeing)


def vision_of(bundle: Bundle) -> Vision:
    deepstack = bundle.layout.input_width // 64 - 1
    name = bundle.manifest.model.architecture
    return replace(VISION, deepstack=deepstack, m_rope=name.startswith("qwen"), both_ways=name == "gemma3")


def prompt(rows: int, columns: int, before: int, after: int, seed: int = 0) -> dict[str, Any]:
    ids = (*IDS[:before], *[0] * (rows * columns), *IDS[before : before + after])
    return {"prompt_token_ids": ids, "pictures": (placed(picture(rows, columns, seed), before),)}


def requests() -> list[GenerationRequest]:
    """With a picture, with two, and texts alone."""
    made = []
    for number in range(9):
        fields = prompt(2 + number % 3, 3 + number % 4, 5 + 7 * number, 9 + number, number)
        if number % 3 == 1:
            end = len(fields["prompt_token_ids"])
            second = placed(picture(3, 2, 50 + number), end)
            fields = {
                "prompt_token_ids": (*fields["prompt_token_ids"], *[0] * 6, *IDS[:4]),
                "pictures": (*fields["pictures"], second),
            }
        if number % 3 == 2:
            fields = {"prompt_token_ids": IDS[number : number + 40], "pictures": ()}
        sampling = SamplingParams(0.8, top_k=5, seed=number, repetition_penalty=1.1)
        made.append(GenerationRequest(**fields, max_tokens=40, sampling=sampling, ignore_eos=True, logprobs=3))
    return made


def bits(state: GenerationState) -> object:
    assert state.error is None
    return state.tokens, state.logprobs, state.finish_reason


@pytest.fixture(scope="module")
def alone(seeing: Bundle) -> list[object]:
    encoder, _ = encoder_of(vision_of(seeing))
    with serving(load(seeing, 16, 1, 2), load_tokenizer(seeing), encoder=encoder) as engine:
        return [bits(ended(engine.submit(replace(one, cache_space=str(n))))) for n, one in enumerate(requests())]


@pytest.mark.parametrize("blocks, tokens", [(64, 64), (64, 40), (18, 64)], ids=["whole", "chunks", "preempted"])
def test_the_same_bits_whatever_runs_beside(
    seeing: Bundle, words: Tokenizer, alone: list[object], blocks: int, tokens: int
) -> None:
    encoder, rows = encoder_of(vision_of(seeing))
    program = load(seeing, blocks, 2, 40, max_batch_tokens=tokens, max_sequences=8)
    limits = EngineLimits(prefill_tokens=7, draft_tokens=3)
    with serving(program, words, encoder=encoder, limits=limits) as engine:
        generations = engine.submit_all(requests())
        for _ in events_of(generations):
            pass
        found = [bits(one.state()) for one in generations]
        assert engine.stats().preemptions > 0 or blocks > 20
    assert found == alone
    assert rows.closed == 1


def test_blocks_are_shared_with_the_same_picture_alone(seeing: Bundle, words: Tokenizer) -> None:
    encoder, rows = encoder_of(vision_of(seeing))

    def ask(seed: int) -> tuple[object, int]:
        fields = prompt(4, 6, 20, 40, seed)
        one = GenerationRequest(**fields, max_tokens=4, sampling=SamplingParams(0.0), ignore_eos=True, logprobs=2)
        state = ended(engine.submit(one))
        return bits(state), state.cached_tokens

    with serving(load(seeing, 64, 1, 20), words, encoder=encoder) as engine:
        first, cached = ask(1)
        assert cached == 0
        other, cached = ask(2)
        assert cached == (0 if seeing.layout.states else 16)  # the text before it, unless no state was kept there
        assert other != first
        again, cached = ask(1)
        assert again == first
        assert cached >= 64
        assert len(rows.encoded) == 2  # its rows were kept
        assert ask(2)[0] == other


def test_a_picture_makes_a_difference_and_where_it_stands(seeing: Bundle, words: Tokenizer) -> None:
    encoder, _ = encoder_of(vision_of(seeing))
    with serving(load(seeing, 64, 1, 20), words, encoder=encoder) as engine:
        found = []
        for fields in (prompt(2, 6, 8, 8, 1), prompt(2, 6, 8, 8, 2), prompt(2, 6, 6, 10, 1), prompt(3, 4, 8, 8, 1)):
            one = GenerationRequest(**fields, max_tokens=1, sampling=SamplingParams(0.0), logprobs=5)
            found.append(repr(bits(ended(engine.submit(one)))))
    assert len(set(found)) == 4


def test_what_pictures_are_refused(seeing: Bundle, words: Tokenizer) -> None:
    encoder, rows = encoder_of(vision_of(seeing))
    one = picture(2, 3)
    good = GenerationRequest((*IDS[:4], *[0] * 6), 2, pictures=(placed(one, 4),))
    cases = {
        "expected rows of pictures one behind another within the prompt": [
            replace(good, pictures=(placed(one, 5),)),
            replace(good, pictures=(placed(one, 4), placed(one, 4))),
            replace(good, pictures=(replace(placed(one, 4), runs=((4, 3), (6, 3))),)),
            replace(good, pictures=(replace(placed(one, 4), runs=((-1, 6),)),)),
        ],
        "expected as many tokens as a picture has rows": [
            replace(good, pictures=(replace(placed(one, 4), runs=((4, 5),)),)),
            replace(good, pictures=(replace(placed(one, 4), grid=(1, 6)),)),
        ],
    }
    with serving(load(seeing, 16, 1, 2), words, encoder=encoder) as engine:
        for problem, requested in cases.items():
            for request in requested:
                with pytest.raises(RequestError, match=f"^images: {problem}$"):
                    engine.submit(request)
        assert rows.encoded == []
        ended(engine.submit(good))
        encoder.close()
        ended(engine.submit(good))  # its rows are kept
        with pytest.raises(EngineBusyError, match="encoder of images is not available"):
            engine.submit(replace(good, pictures=(placed(picture(2, 3, 1), 4),)))
    with (
        serving(load(seeing, 16, 1, 2), words) as engine,
        pytest.raises(RequestError, match=r"^images: the model reads text alone$"),
    ):
        engine.submit(good)
