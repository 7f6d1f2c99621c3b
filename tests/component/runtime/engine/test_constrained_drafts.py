"""Drafts while a constraint holds: as many tokens as before, the very same, in fewer steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.batch import Program, UInt32
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.text.constraints import ConstraintCompiler, ConstraintSpec
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.drafting import Eager, drafted
from rocmforge.tests.support.emulated_programs import compiled as compiled_for_gpus
from rocmforge.tests.support.emulated_programs import load as load_gpu
from rocmforge.tests.support.engine_harness import CountingMetrics, ended, load, serving
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model

FLAGS = {"type": "array", "items": {"type": "boolean"}, "minItems": 12, "maxItems": 12}
NAMES = {
    "type": "object",
    "properties": {key: {"enum": ["alpha", "alphabet"]} for key in "abcd"},
    "required": [*"abcd"],
}
SPECS = (
    ConstraintSpec("json_schema", FLAGS, "schema"),
    ConstraintSpec("json_schema", NAMES | {"additionalProperties": False}, "schema"),
    ConstraintSpec("regex", "((ab|ac)d){6,9}", "regex"),
    ConstraintSpec("json_object", None, "format"),
    ConstraintSpec("grammar", 'root ::= ("yes " | "no ")+ "end"', "grammar"),
)
SAMPLINGS = (
    SamplingParams(0.0),
    SamplingParams(1.0, seed=3),
    SamplingParams(0.9, top_k=4, seed=8, repetition_penalty=1.1),
)
FEWER = 280
"""Tokens of a smaller draft model, among which are all of the prompt."""
PROMPT = "[true, false, true, abdacdabd alpha alphabet yes no yes "


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer)


def requests(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> list[GenerationRequest]:
    """Each constraint with each way to draw; with log-probabilities, a stop string, and a few tokens alone."""
    prompt = tuple(token for token in tokenizer.encode(PROMPT) if token < FEWER)
    made = [
        GenerationRequest(prompt, 48, sampling, constraint=compiler.compile(spec), logprobs=2 if number % 2 else None)
        for spec in SPECS
        for number, sampling in enumerate(SAMPLINGS)
    ]
    made.append(GenerationRequest(prompt, 48, SAMPLINGS[0], stop=("alse, t",), constraint=compiler.compile(SPECS[0])))
    made.append(GenerationRequest(prompt, 7, SAMPLINGS[1], constraint=compiler.compile(SPECS[2])))
    made.append(GenerationRequest(prompt, 30, SAMPLINGS[0], ignore_eos=True))
    return made


def plain_of(state: GenerationState) -> GenerationState:
    return dataclasses.replace(state, request_id=0, cached_tokens=0)


@pytest.fixture(scope="module")
def alone(bundle: Bundle, tokenizer: Tokenizer, compiler: ConstraintCompiler) -> list[GenerationState]:
    """Without drafts, one after another."""
    with serving(load(bundle, 64, 1), tokenizer) as engine:
        found = [plain_of(ended(engine.submit(one))) for one in requests(tokenizer, compiler)]
        assert engine.stats().draft_tokens == 0
    return found


@pytest.mark.parametrize("blocks, together", [(64, False), (400, True), (24, True)])
def test_out_of_the_text(
    bundle: Bundle,
    tokenizer: Tokenizer,
    compiler: ConstraintCompiler,
    alone: list[GenerationState],
    blocks: int,
    together: bool,
) -> None:
    """One after another, beside each other, and preempted."""
    metrics = CountingMetrics()
    with serving(load(bundle, blocks, 1), tokenizer, metrics=metrics, limits=EngineLimits(draft_tokens=5)) as engine:
        if together:
            found = [ended(one) for one in [engine.submit(one) for one in requests(tokenizer, compiler)]]
        else:
            found = [ended(engine.submit(one)) for one in requests(tokenizer, compiler)]
        stats = engine.stats()
    assert [plain_of(one) for one in found] == alone
    assert stats.draft_tokens_accepted > 60
    assert (stats.pages_used, stats.active) == (0, 0)
    assert (metrics.preemptions > 0) == (blocks == 24)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    """Of other weights, and of fewer tokens: those of letters, but few of their pairs."""
    path = tmp_path_factory.mktemp("smaller") / "model.gguf"
    write_model(path, context_length=256, seed=5, num_layers=1, vocab_size=FEWER)
    with compiled(path, build_cache) as opened:
        yield opened


@pytest.mark.parametrize("own", [True, False])
def test_of_a_draft_model(
    bundle: Bundle,
    smaller: Bundle,
    tokenizer: Tokenizer,
    compiler: ConstraintCompiler,
    alone: list[GenerationState],
    own: bool,
) -> None:
    """The model itself, whose drafts are all accepted, for the masks are the same; and one that knows less."""
    policy = Eager(4)
    pair = drafted(load(bundle, 300, 1), load(bundle if own else smaller, 300, 1), policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        found = [ended(one) for one in [engine.submit(one) for one in requests(tokenizer, compiler)]]
        stats = engine.stats().draft
    assert [plain_of(one) for one in found] == alone
    assert stats is not None
    assert stats.problem is None
    assert (stats.proposed == stats.accepted) == own
    assert stats.accepted > 60


@pytest.fixture(scope="module")
def gpu_bundle(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    path = tmp_path_factory.mktemp("gpu") / "model.gguf"
    write_model(path, context_length=64, num_layers=1)
    with compiled_for_gpus(path, build_cache, path.with_suffix(".rfb"), archs=("gfx1100",)) as opened:
        yield opened


def test_on_an_emulated_gpu(tokenizer: Tokenizer, compiler: ConstraintCompiler, gpu_bundle: Bundle) -> None:
    found = []
    for drafts in (0, 4):
        program: Program = load_gpu(gpu_bundle, "gfx1100", 32, checked=False)
        with serving(program, tokenizer, 64, limits=EngineLimits(draft_tokens=drafts)) as engine:
            prompt = tuple(tokenizer.encode("[true, true, "))
            one = GenerationRequest(prompt, 30, SAMPLINGS[0], constraint=compiler.compile(SPECS[0]))
            found.append(plain_of(ended(engine.submit(one))))
            assert (engine.stats().draft_tokens_accepted > 0) == (drafts > 0)
    assert found[0] == found[1]


class Failing:
    """A constraint whose mask after so many tokens cannot be made, or that takes no token then."""

    def __init__(self, of: Any, after: int, how: str) -> None:
        self.of, self.left, self.how = of, after, how

    def mask(self) -> UInt32:
        if not self.left and self.how == "mask":
            raise RocmforgeError("too complex")
        found: UInt32 = self.of.mask()
        return found

    def take(self, token: int) -> bool:
        if not self.left and self.how == "take":
            raise RocmforgeError("too complex")
        self.left -= 1
        return bool(self.of.take(token))

    def copy(self) -> Failing:
        return Failing(self.of.copy(), self.left, self.how)


@pytest.mark.parametrize("how", ["mask", "take"])
def test_a_constraint_that_gives_up_does_so_at_the_same_token(
    bundle: Bundle, tokenizer: Tokenizer, compiler: ConstraintCompiler, how: str
) -> None:
    """Wherever drafts stood."""
    prompt = tuple(tokenizer.encode("[true, true, true, true, "))
    found: dict[int, list[GenerationState]] = {}
    for drafts in (0, 5):
        with serving(load(bundle, 64, 1), tokenizer, limits=EngineLimits(draft_tokens=drafts)) as engine:
            found[drafts] = [
                plain_of(
                    ended(
                        engine.submit(
                            GenerationRequest(
                                prompt, 48, SAMPLINGS[0], constraint=Failing(compiler.compile(SPECS[0]), after, how)
                            )
                        )
                    )
                )
                for after in range(8, 22)
            ]
            assert (engine.stats().draft_tokens_accepted > 0) == (drafts > 0)
    assert found[0] == found[5]
    assert {state.finish_reason for state in found[0]} == {"failed"}
    assert {str(state.error) for state in found[0]} == {"too complex"}
