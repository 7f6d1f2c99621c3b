"""`rfc run`: one prompt, or a chat, in the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError, printable
from ..library.images import SeenPrompt
from ..library.loading import load
from ..library.model import Model
from ..library.params import params_of
from .device.load import DeviceOptions
from .engine import recovery
from .engine.engine import EngineLimits
from .engine.generation import SamplingParams


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to generate with. `prompt` None: a chat; `adapters`: names, and what each is multiplied by; `draft`: bundle
    of a draft model; `images`: files that come before the prompt."""

    bundle: Path
    prompt: str | None
    max_tokens: int
    sampling: SamplingParams
    device: DeviceOptions
    max_context: int | None
    adapters: Mapping[str, float] = field(default_factory=dict)
    draft: Path | None = None
    images: tuple[Path, ...] = ()


def read_adapter(text: str) -> tuple[str, float]:
    """Return what NAME[:SCALE] says.

    Raises:
        UsageError: the scale is no number.
    """
    name, colon, scale = text.partition(":")
    try:
        return name, float(scale) if colon else 1.0
    except ValueError:
        raise UsageError(f"--adapter: expected NAME or NAME:SCALE, found {printable(text)}") from None


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _generate(model: Model, prompt: SeenPrompt, options: RunOptions, emit: Callable[[str], None]) -> None:
    """Generate, telling `emit` each piece of text."""
    room = model.max_context - len(prompt.token_ids)
    params = params_of(options.sampling, min(options.max_tokens, room))
    with contextlib.closing(model.stream(prompt, params, adapter=options.adapters)) as pieces:
        for piece in pieces:
            emit(piece.text)


@contextlib.contextmanager
def _failures_told_once() -> Iterator[None]:
    """The engine logs no step that failed: what it raises says so."""
    level = recovery.log.level
    recovery.log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        recovery.log.setLevel(level)


@_failures_told_once()
def run_bundle(options: RunOptions) -> None:
    """Continue a prompt, or hold a chat until the end of input.

    Raises:
        RocmforgeError: the bundle or the device is unavailable, or the prompt is empty or too long.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # no text that a model or a user writes ends in a traceback
    size = {"max_context": options.max_context, "contexts": 1}  # one sequence at a time
    limits = EngineLimits()
    device = replace(options.device, prove_with_first_step=options.prompt is not None and options.draft is None)
    with load(options.bundle, device=device, **size, limits=limits, report=_say, draft=options.draft) as model:
        if options.prompt is None:
            _Chat(model, options).hold()
        else:
            _continue(model, model.with_images(options.prompt, options.images), options)


def _continue(model: Model, prompt: SeenPrompt, options: RunOptions) -> None:
    tokens = prompt.token_ids
    if not tokens:
        raise UsageError("PROMPT: expected a text, found nothing")
    if len(tokens) >= model.max_context:
        raise UsageError(f"PROMPT: expected fewer than {model.max_context} tokens (the context), found {len(tokens)}")
    _generate(model, prompt, options, _print_piece)
    _print_piece("\n")


class _Chat:
    """A conversation in the terminal."""

    def __init__(self, model: Model, options: RunOptions) -> None:
        self._model = model
        self._options = options
        self._messages: list[dict[str, object]] = []

    def hold(self) -> None:
        """Answer line by line until the end of input, or Ctrl-C at the prompt."""
        prompt = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                _print_piece(prompt)  # not by `input`: it loses a Ctrl-C that comes right after the prompt
                question = sys.stdin.readline()
            except KeyboardInterrupt:
                question = ""
            if not question:
                _print_piece("\n" if prompt else "")
                return
            if question.strip():
                self._answer(question.rstrip("\n"))

    def _answer(self, question: str) -> None:
        self._messages.append({"role": "user", "content": question})
        tokens = self._tokens()
        pieces: list[str] = []

        def emit(text: str) -> None:
            pieces.append(text)
            _print_piece(text)

        # Ctrl-C stops this answer; what was said of it counts.
        with contextlib.suppress(KeyboardInterrupt):
            _generate(self._model, SeenPrompt(tokens, ()), self._options, emit)
        _print_piece("\n")
        self._messages.append({"role": "assistant", "content": "".join(pieces)})

    def _tokens(self) -> tuple[int, ...]:
        """Token ids of the conversation, from which the oldest exchanges are dropped where it is too long.

        Raises:
            UsageError: the last message alone is too long.
        """
        limit = self._model.max_context
        while True:
            tokens = self._model.chat_prompt(self._messages)
            if len(tokens) < limit:
                return tokens
            if len(self._messages) < 3:
                raise UsageError(f"expected a message of fewer than {limit} tokens (the context), found {len(tokens)}")
            del self._messages[:2]
            print("(the conversation is too long: its oldest exchange is forgotten)", file=sys.stderr)
