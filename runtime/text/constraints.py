"""Output that must match: a JSON object, a JSON schema, a regular expression or a grammar, by the library llguidance.

Schemas and expressions come from clients. The library has no backtracking (it walks derivatives of regular expressions
and an Earley parser), fetches no remote schema, and works under the limits below, so that a hostile one is refused, or
fails its own request, rather than takes time or memory.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RequestError, printable
from .closed_schema import closed
from .gbnf import GbnfError, is_gbnf, lark_of
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_CHARS: Final = 64 * 1024
"""Of a schema, as JSON, of an expression or of a grammar: tens of real tools fit."""

_DEAD_END: Final = "NoExtensionBias"  # the library's word for a text that no token may follow and that may not end

MAX_RULES: Final = 1000
"""Of a grammar in Lark's language, each of which has a colon. The library's stack ends at a chain of 2,700."""

_LIMITS: Final[dict[str, Any]] = {
    "max_grammar_size": 100_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,
}
# Spaces where people put them and nowhere else: a model at a high temperature may go on with white space for ever.
JSON_OPTIONS: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Kind = Literal["json_object", "json_schema", "regex", "grammar", "calls"]


class ConstraintError(RequestError):
    """A constraint that met a limit while text was generated under it: the request's fault, as it would be at first."""


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """What the output must match, as a client gave it.

    Attributes:
        kind: which of the five it is.
        source: the schema (a JSON object), the expression, or the grammar: llama.cpp's GBNF, or the library's form of
            Lark's language, in which calls of tools are as well (`call_grammar`); nothing for `json_object`.
        parameter: what named it in the request, for messages.
    """

    kind: Kind
    source: object
    parameter: str


class Matcher:
    """A constraint on its way through one output. Not thread-safe: one sequence owns it."""

    def __init__(self, library: LLMatcher, parameter: str) -> None:
        """`parameter` of the request, for messages."""
        self._library = library
        self._parameter = parameter

    def mask(self) -> npt.NDArray[np.uint32]:
        """A bit a token, the lowest first: those that may come next. The end is one of them where the text may end.

        Raises:
            ConstraintError: a limit was met.
        """
        bits = self._library.compute_bitmask()
        self._check()
        return np.frombuffer(bits, np.uint32)

    def take(self, token: int) -> bool:
        """Go on by a token that the mask allowed; returns whether nothing but the end can follow.

        Raises:
            ConstraintError: it was not allowed, or a limit was met.
        """
        self._library.consume_token(token)
        self._check()
        return bool(self._library.is_stopped())

    def copy(self) -> Matcher:
        """Another one at the same place."""
        return Matcher(self._library.deep_copy(), self._parameter)

    def _check(self) -> None:
        if self._library.is_error():
            problem = _first_line(self._library.get_error())
            raise ConstraintError(self._parameter, "nothing can match it" if problem == _DEAD_END else problem)


class ConstraintCompiler:
    """Makes matchers for one model's vocabulary. Thread-safe; the library is loaded with the first one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Of this model."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None

    def compile(self, spec: ConstraintSpec) -> Matcher:
        """A matcher at the beginning of its output.

        Raises:
            RequestError: the constraint is wrong, or beyond the limits; names its parameter.
        """
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 - takes 60 ms, which `rfc serve` must not pay

        grammar = _grammar(LLMatcher, spec)
        library = LLMatcher(self._load_vocabulary(), grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
        if not library.is_error():
            matcher = Matcher(library, spec.parameter)
            matcher.mask()  # some limits are only met here
            return matcher
        raise RequestError(spec.parameter, _first_line(library.get_error()))

    def _load_vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415 - slow to import, as in `compile`

        with self._lock:
            if self._vocabulary is None:
                config = self._tokenizer.config
                ends = list(config.eos_token_ids)
                self._vocabulary = LLTokenizer(
                    TokenizerWrapper(_Vocabulary(self._tokenizer)), n_vocab=config.vocab_size, eos_token=ends or None
                )
            return self._vocabulary


class _Vocabulary:
    """The tokenizer as llguidance reads it. Control tokens have their text: the library keeps them apart."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        config = tokenizer.config
        size = range(config.vocab_size)
        self.tokens = [tokenizer.token_bytes(i, skip_special=False) for i in size]
        self.special_token_ids = [i for i in size if self.tokens[i] and not tokenizer.token_bytes(i)]
        self.bos_token_id = config.bos_token_id
        self.eos_token_id = config.eos_token_ids[0] if config.eos_token_ids else 0
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)


def _grammar(library: type[LLMatcher], spec: ConstraintSpec) -> str:
    if spec.kind == "json_object":
        return library.grammar_from_json_schema('{"type": "object"}', overrides=_options())
    source = json.dumps(spec.source) if spec.kind == "json_schema" else str(spec.source)
    if len(source) > MAX_CHARS:
        raise RequestError(spec.parameter, f"expected at most {MAX_CHARS} characters, found {len(source)}")
    if spec.kind == "regex":
        return library.grammar_from_regex(source)
    if spec.kind == "calls":
        return library.grammar_from_lark(source)
    if spec.kind == "grammar":
        return library.grammar_from_lark(_lark(source, spec.parameter))
    try:
        return library.grammar_from_json_schema(json.dumps(closed(spec.source)), overrides=_options())
    except RecursionError:
        raise RequestError(spec.parameter, "nested too deep") from None
    except ValueError as error:
        raise RequestError(spec.parameter, _first_line(str(error))) from None


def _lark(source: str, parameter: str) -> str:
    if is_gbnf(source):
        try:
            return lark_of(source)
        except GbnfError as error:
            raise RequestError(parameter, f"expected GBNF: {error}") from None
    if (found := source.count(":")) > MAX_RULES:
        raise RequestError(parameter, f"expected at most {MAX_RULES} colons, found {found}")
    return source


def _options() -> Any:
    return dict(JSON_OPTIONS)


def _first_line(text: str) -> str:
    return printable(text.partition("\n")[0], 200)
