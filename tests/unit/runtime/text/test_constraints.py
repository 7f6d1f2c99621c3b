"""Constraints on output: against jsonschema, Python's re, and clients that mean harm."""

from __future__ import annotations

import copy
import json
import re
import resource
import time
from collections.abc import Iterator
from typing import cast

import jsonschema
import numpy as np
import pytest
import tokenizers

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.tokenizer_config import TokenizerConfig
from rocmforge.runtime.device.batch import UInt32
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.constraints import (
    MAX_CHARS,
    ConstraintCompiler,
    ConstraintError,
    ConstraintSpec,
    Kind,
    Matcher,
)
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tools.bench.structured_output import SCHEMAS

OBJECT = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Bundle) -> Tokenizer:
    return load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer)


@pytest.fixture(scope="module")
def engine(smollm2: Bundle, tokenizer: Tokenizer) -> Iterator[Engine]:
    started = Engine(load_host_program(smollm2, 256, 1), tokenizer, 1024, Metrics())
    started.start()
    yield started
    started.stop(5)


def spec(kind: Kind, source: object = None) -> ConstraintSpec:
    return ConstraintSpec(kind, source, "response_format")


def allowed(mask: UInt32) -> list[int]:
    return [int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def follow(matcher: Matcher, tokenizer: Tokenizer, text: str) -> bool:
    """Whether the matcher takes this text, token by token, and the end after it."""
    for token in tokenizer.encode(text, add_special=False):
        if token not in allowed(matcher.mask()):
            return False
        matcher.take(token)
    return bool(set(tokenizer.config.eos_token_ids) & set(allowed(matcher.mask())))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Rome", "days": 3}',
        '{"city": "Rome", "days": 10}',
        '{"city": "Oslo", "days": 3}',
        '{"city": "Rome"}',
    ],
)
def test_a_schema_takes_what_jsonschema_takes(compiler: ConstraintCompiler, tokenizer: Tokenizer, text: str) -> None:
    valid = jsonschema.Draft202012Validator(OBJECT).is_valid(json.loads(text))
    assert follow(compiler.compile(spec("json_schema", OBJECT)), tokenizer, text) == valid


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Rome","days": 3}',
        '{"city": "Rome",  "days": 3}',
        '{"city":"Rome", "days": 3}',
        '{"city":\t"Rome", "days": 3}',
        '{"city": "Rome", "days": 3 }',
        '{\n  "city": "Rome",\n  "days": 3\n}',
        ' {"city": "Rome", "days": 3}',
    ],
)
def test_white_space_is_where_people_put_it(compiler: ConstraintCompiler, tokenizer: Tokenizer, text: str) -> None:
    """A model that may put it anywhere may go on with it for ever."""
    usual = '{"city": "Rome", "days": 3}'
    assert json.loads(text) == json.loads(usual)
    for what in (spec("json_schema", OBJECT), spec("json_object")):
        assert follow(compiler.compile(what), tokenizer, usual)
        assert not follow(compiler.compile(what), tokenizer, text)


def test_an_object_holds_what_its_schema_names(compiler: ConstraintCompiler, tokenizer: Tokenizer) -> None:
    open_schema = {key: value for key, value in OBJECT.items() if key != "additionalProperties"}
    assert follow(compiler.compile(spec("json_schema", open_schema)), tokenizer, '{"city": "Rome", "days": 3}')
    more = '{"city": "Rome", "days": 3, "more": 1}'
    assert not follow(compiler.compile(spec("json_schema", open_schema)), tokenizer, more)
    asked = spec("json_schema", open_schema | {"additionalProperties": True})
    assert follow(compiler.compile(asked), tokenizer, more)


@pytest.mark.parametrize("text", ["2024-05-06", "2024-5-06", "x2024-05-06", "2024-05-06x", "", "é2024"])
@pytest.mark.parametrize("pattern", ["[0-9]{4}-[0-9]{2}-[0-9]{2}", "(é|x)?[0-9]{4}.*", "[^x]*"])
def test_an_expression_takes_what_re_takes(
    compiler: ConstraintCompiler, tokenizer: Tokenizer, pattern: str, text: str
) -> None:
    matches = re.fullmatch(pattern, text) is not None
    assert follow(compiler.compile(spec("regex", pattern)), tokenizer, text) == matches


def test_what_nothing_can_match_is_refused_and_no_text_at_all_is_not(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    for kind, source in (("regex", "[^\\s\\S]"), ("grammar", "start: /[^\\s\\S]/")):
        with pytest.raises(RequestError) as caught:
            compiler.compile(spec(cast(Kind, kind), source))
        assert str(caught.value) == "response_format: nothing can match it"
    nothing = compiler.compile(spec("regex", ""))
    assert set(allowed(nothing.mask())) == set(tokenizer.config.eos_token_ids)


def test_a_grammar_and_any_object(compiler: ConstraintCompiler, tokenizer: Tokenizer) -> None:
    sum_of = spec("grammar", 'start: term ("+" term)*\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]+/')
    assert follow(compiler.compile(sum_of), tokenizer, "1+(2+3)")
    assert not follow(compiler.compile(sum_of), tokenizer, "1+(2+3")
    assert follow(compiler.compile(spec("json_object")), tokenizer, '{"a": [1, {"b": null}]}')
    assert not follow(compiler.compile(spec("json_object")), tokenizer, "[1]")


@pytest.mark.parametrize("ends", [(1,), (1, 5), ()])
def test_the_end_is_each_of_the_models_own_ends(ends: tuple[int, ...]) -> None:
    """The library wants one: a model that has none gets its first token for it."""
    letters = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "<end>": 5}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(letters, [("a", "b")]))
    library.add_special_tokens(["<s>", "</s>", "<end>"])
    config = TokenizerConfig(None, ends, False, False, "", "", len(letters), ends[0] if ends else None)
    matcher = ConstraintCompiler(Tokenizer(library.to_str(), config)).compile(spec("regex", "(ab)*a"))
    assert allowed(matcher.mask()) == [2, 4]
    matcher.take(4)
    assert allowed(matcher.mask()) == [2, 4]
    matcher.take(2)
    assert allowed(matcher.mask()) == sorted({3, *(ends or (0,))})


def test_control_tokens_are_no_text(compiler: ConstraintCompiler, tokenizer: Tokenizer) -> None:
    matcher = compiler.compile(spec("regex", ".+"))
    special = {i for i in range(tokenizer.config.vocab_size) if not tokenizer.token_bytes(i)}
    assert not special & set(allowed(matcher.mask()))
    matcher.take(tokenizer.encode("a", add_special=False)[0])
    assert special & set(allowed(matcher.mask())) <= set(tokenizer.config.eos_token_ids)


def deep(depth: int) -> object:
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


BOMB = {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}, "$ref": "#/$defs/d0"}
HOSTILE = [
    pytest.param("regex", "(a|a)*(a|a)*(a|a)*b", id="backtracking"),
    pytest.param("regex", "^(([a-z])+.)+[A-Z]([a-z])+$", id="evil"),
    pytest.param("regex", "((a{1,1000}){1,1000}){1,1000}", id="repetitions"),
    pytest.param("regex", "(a?){5000}a{5000}", id="optional-repetitions"),
    pytest.param("regex", "(.*a.{30}b){5}", id="exponential-automaton"),
    pytest.param("regex", "(" * 20000 + "a" + ")" * 20000, id="nested"),
    pytest.param("regex", "[", id="no-expression"),
    pytest.param("json_schema", deep(400), id="deep"),
    pytest.param("json_schema", {"$ref": "#"}, id="refers-to-itself"),
    pytest.param("json_schema", {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, id="refers-to-itself-twice"),
    pytest.param("json_schema", {"$ref": "http://127.0.0.1:1/x"}, id="remote"),
    pytest.param("json_schema", {"type": 5}, id="no-schema"),
    pytest.param("json_schema", {"enum": [f"v{i}" for i in range(100_000)]}, id="huge-enum"),
    pytest.param("json_schema", {"enum": [f"v{i}" for i in range(6_000)]}, id="large-enum"),
    pytest.param("json_schema", {"properties": {f"k{i}": {"type": "string"} for i in range(2_000)}}, id="properties"),
    pytest.param("json_schema", {"type": "integer", "multipleOf": 982451653, "maximum": 10**15}, id="multiples"),
    pytest.param("json_schema", {"$defs": {**BOMB["$defs"], "d40": {}}, "$ref": "#/$defs/d0"}, id="all-of-bomb"),  # type: ignore[dict-item]
    pytest.param("grammar", "start: start start | |", id="ambiguous"),
    pytest.param("grammar", "start: " + "(" * 3000 + '"a"' + ")" * 3000, id="nested-grammar"),
    pytest.param("grammar", "nonsense", id="no-grammar"),
    pytest.param("grammar", "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(4000)), id="chain-of-rules"),
    pytest.param("grammar", 'root ::= (((("a"{2000}){2000}){2000}){2000}){2000}', id="gbnf-repetitions"),
    pytest.param("grammar", f'root ::= {"(" * 150}"a"{")*" * 150}', id="gbnf-stars"),
    pytest.param("grammar", 'root ::= "' + "".join(map(chr, range(0x4E00, 0x5800))) + '"', id="gbnf-characters"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind, source", HOSTILE)
def test_hostile_constraints_are_bounded(compiler: ConstraintCompiler, kind: Kind, source: object) -> None:
    """Refused by name, or usable; in seconds of CPU and 300 MB at most, where some would take hours or all memory."""
    random, begin = np.random.default_rng(1), time.thread_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal, parameter = "", "response_format"
    try:
        matcher = compiler.compile(spec(kind, source))
        for _ in range(50):
            if matcher.take(int(random.choice(allowed(matcher.mask())))):
                break
    except RequestError as error:  # at first, or after some tokens
        refusal, parameter = str(error), error.parameter
    assert parameter == "response_format"
    assert "\n" not in refusal
    assert len(refusal) < 300
    assert time.thread_time() - begin < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


@pytest.mark.parametrize(
    "kind, source", [("regex", "a" * (MAX_CHARS + 1)), ("json_schema", {"enum": ["x" * MAX_CHARS]})]
)
def test_long_constraints_are_refused_before_they_are_read(
    compiler: ConstraintCompiler, kind: Kind, source: object
) -> None:
    with pytest.raises(RequestError, match=f"expected at most {MAX_CHARS} characters"):
        compiler.compile(spec(kind, source))


def run(engine: Engine, request: GenerationRequest) -> GenerationState:
    generation = engine.submit(request)
    for _ in generation.events():
        pass
    return generation.state()


def request(
    tokenizer: Tokenizer, matcher: Matcher | None, seed: int, temperature: float = 1.0, logprobs: int | None = None
) -> GenerationRequest:
    prompt = tuple(tokenizer.encode("<|im_start|>user\nUse the tool.<|im_end|>\n<|im_start|>assistant\n"))
    sampling = SamplingParams(temperature, seed=seed)
    return GenerationRequest(prompt, 400, sampling, constraint=matcher, logprobs=logprobs)


@pytest.mark.slow
def test_structured_output_is_valid(engine: Engine, tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    """One of each schema at temperature 1; tools/bench/structured_output.py does a hundred."""
    for seed, schema in enumerate(SCHEMAS.values()):
        state = run(engine, request(tokenizer, compiler.compile(spec("json_schema", schema)), seed))
        jsonschema.Draft202012Validator(schema).validate(json.loads(state.text))
        assert state.finish_reason in {"stop", "eos"}


@pytest.mark.slow
def test_constrained_output_is_the_same_alone_and_among_others(
    engine: Engine, tokenizer: Tokenizer, compiler: ConstraintCompiler
) -> None:
    schema = spec("json_schema", OBJECT)
    alone = [run(engine, request(tokenizer, compiler.compile(schema), seed)).tokens for seed in range(3)]
    others = [engine.submit(request(tokenizer, None, 7)) for _ in range(3)]
    together = [engine.submit(request(tokenizer, compiler.compile(schema), seed)) for seed in range(3)]
    for generation in together:
        assert [event for event in generation.events() if event and event.finished]
    assert [generation.state().tokens for generation in together] == alone
    for other in others:
        other.cancel()


class Broken:
    """A constraint that gives up after three tokens."""

    def __init__(self, tokens: int) -> None:
        self.mask_of_all = np.full(-(-tokens // 32), 2**32 - 1, np.uint32)
        self.taken = 0

    def mask(self) -> UInt32:
        return self.mask_of_all

    def take(self, token: int) -> bool:
        self.taken += 1
        if self.taken == 3:
            raise ConstraintError("response_format", "too complex")
        return False

    def copy(self) -> Broken:
        return copy.copy(self)


def test_a_constraint_that_gives_up_fails_its_own_request_alone(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = tuple(tokenizer.encode("Once upon a time"))
    good = engine.submit(GenerationRequest(prompt, 8, SamplingParams(0.0), ignore_eos=True))
    bad = run(engine, GenerationRequest(prompt, 8, SamplingParams(0.0), constraint=Broken(tokenizer.config.vocab_size)))
    assert (bad.finish_reason, str(bad.error), len(bad.tokens)) == ("failed", "response_format: too complex", 3)
    assert next(event for event in good.events() if event and event.finished).finish_reason == "length"
    assert engine.stats().pages_used == 0


def test_logprobs_are_the_models_own(engine: Engine, tokenizer: Tokenizer, smollm2: Bundle) -> None:
    """Greedy under a bias, penalties and a mask: the log-probabilities do not move. Those of equal contexts agree."""
    prompt = tuple(tokenizer.encode("The capital of France is"))
    plain = run(engine, GenerationRequest(prompt, 3, SamplingParams(0.0), logprobs=3, ignore_eos=True))
    banned = plain.tokens[0]
    sampling = SamplingParams(0.0, logit_bias=((banned, -100.0),), repetition_penalty=1.3)
    moved = run(engine, GenerationRequest(prompt, 3, sampling, logprobs=3, ignore_eos=True))
    assert [entry.token for entry in plain.logprobs] == list(plain.tokens)
    assert moved.tokens[0] != banned
    assert moved.logprobs[0].top == plain.logprobs[0].top
    assert plain.logprobs[0].top[0] == (banned, plain.logprobs[0].logprob)
    everything = run(engine, GenerationRequest(prompt, 1, SamplingParams(0.0), logprobs=49152)).logprobs[0]
    # All probabilities together are 1; the float64 sum of 49152 rounded terms is off by 49152 x 2^-53 at most.
    assert abs(sum(np.exp(logprob) for _, logprob in everything.top) - 1) < 49152 * 2.0**-53


def test_stop_tokens_end_a_generation(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = tuple(tokenizer.encode("The capital of France is"))
    plain = run(engine, GenerationRequest(prompt, 6, SamplingParams(0.0), ignore_eos=True))
    stopped = run(engine, GenerationRequest(prompt, 6, SamplingParams(0.0), stop_token_ids=(plain.tokens[2],)))
    assert stopped.tokens == plain.tokens[:3]
    assert stopped.finish_reason == "stop"
    assert stopped.text == tokenizer.decode(plain.tokens[:2])
