"""Filling in: the prompt that asks for the middle of a text, by the tokens that a model has for it.

The order is prefix, suffix, middle; other files come before it, each behind its name. Source: "Efficient Training of
Language Models to Fill in the Middle" (arXiv 2207.14255), and for several files Qwen2.5-Coder's (arXiv 2409.12186).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ....artifacts.tokenizer_config import InfillTokens
from .errors import UnsupportedError
from .service import Service
from .text_apis import Look

REPOSITORY = "repository"
FILE = "file"
SNIPPET = "\n\n--- snippet ---\n\n"  # before each file where the model has no token for that
SUFFIX_SHARE = 4  # a fourth of the room, where prefix and suffix together are too long
RESERVED_SHARE = 4  # of the context, for the middle where the request does not say how long it may be


@dataclass(frozen=True, slots=True)
class File:
    """Another file, for the model to know."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Text around a gap.

    Attributes:
        prefix: stands before it.
        suffix: stands after it.
        begun: what the gap begins with, which the model goes on from as if it were of the prefix, but is never cut.
        files: others.
    """

    prefix: str
    suffix: str
    begun: str = ""
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class _Marks:
    """The three tokens without which nothing can be filled in."""

    prefix: int
    suffix: int
    middle: int


def infill_ids(service: Service, gap: Gap, max_tokens: int | None, parameter: str, look: Look) -> tuple[int, ...]:
    """Return the token ids of the prompt, cut to leave room in the context for the middle.

    Of the prefix its end is kept, of the suffix its beginning, of the other files what comes last.

    Args:
        gap: what is to be filled.
        max_tokens: that the middle may have; None: a part of the context.
        parameter: what names the suffix in the request.
        look: see `Look`.

    Raises:
        UnsupportedError: the model has no tokens for it.
        RequestError: the text that the gap begins with leaves no room.
    """
    config = service.tokenizer.config
    marks = _marks(config.infill, parameter)

    def encode(text: str) -> list[int]:
        return service.tokenizer.encode(text, False, False, None, look)

    limit = service.engine.max_context
    reserved = limit // RESERVED_SHARE if max_tokens is None else min(max_tokens, limit // 2)
    begun = encode(gap.begun)
    room = limit - reserved - len(begun) - len(fields(_Marks)) - config.add_bos
    if room < 0:
        raise RequestError("prompt", f"expected a beginning that leaves room, found {len(begun)} tokens of {limit}")
    prefix, suffix = encode(gap.prefix), encode(gap.suffix)
    suffix = suffix[: max(room // SUFFIX_SHARE, room - len(prefix))]
    prefix = prefix[max(0, len(prefix) - (room - len(suffix))) :]
    files = _files(gap, config.infill, encode)
    files = files[max(0, len(files) - (room - len(prefix) - len(suffix))) :]
    bos = [config.bos_token_id] if config.add_bos and config.bos_token_id is not None else []
    return (*bos, *files, marks.prefix, *prefix, *begun, marks.suffix, *suffix, marks.middle)


def _marks(tokens: InfillTokens, parameter: str) -> _Marks:
    if tokens.prefix is None or tokens.suffix is None or tokens.middle is None:
        raise UnsupportedError(parameter, "the model has no tokens for filling in")
    return _Marks(tokens.prefix, tokens.suffix, tokens.middle)


def _files(gap: Gap, tokens: InfillTokens, encode: Callable[[str], list[int]]) -> list[int]:
    """The other files as tokens; where the model knows of files, each comes behind its name, as the gap's does."""
    ids: list[int] = []
    if not gap.files:
        return ids
    if tokens.repo is not None:
        ids += [tokens.repo, *encode(f"{REPOSITORY}\n")]
    for file in gap.files:
        if tokens.separator is None:
            ids += encode(f"{SNIPPET}{file.text}")
        else:
            ids += [tokens.separator, *encode(f"{file.name}\n{file.text}")]
    if tokens.separator is not None:
        ids += [tokens.separator, *encode(f"{FILE}\n")]
    return ids
