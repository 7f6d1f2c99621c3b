"""`rfc run`: one prompt, or a chat, in the terminal."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..artifacts.bundle import open_bundle
from ..artifacts.errors import RocmforgeError, UsageError
from .device.load import DeviceOptions
from .engine.engine import Engine
from .engine.generation import GenerationRequest, SamplingParams
from .engine.loading import EngineOptions, load_engine, load_tokenizer
from .serve import load_chat_template
from .telemetry.metrics import Metrics
from .text.chat import ChatTemplate
from .text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to generate with. `prompt` None: a chat."""

    bundle: Path
    prompt: str | None
    max_tokens: int
    sampling: SamplingParams
    device: DeviceOptions
    max_context: int | None


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _generate(engine: Engine, tokens: list[int], options: RunOptions, emit: Callable[[str], None]) -> None:
    """Generate, telling `emit` each piece of text."""
    room = engine.max_context - len(tokens)
    request = GenerationRequest(tuple(tokens), min(options.max_tokens, room), options.sampling)
    generation = engine.submit(request)
    try:
        for event in generation.events():
            if event is not None:
                emit(event.text)
    except KeyboardInterrupt:
        generation.cancel()
        raise
    state = generation.state()
    if state.error:
        raise RocmforgeError(f"generation failed: {state.error}")


def run_bundle(options: RunOptions) -> None:
    """Continue a prompt, or hold a chat until the end of input.

    Raises:
        RocmforgeError: the bundle or the device is not to be had, or the prompt is empty or too long.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # no text that a model or a user writes ends in a traceback
    with open_bundle(options.bundle) as bundle:
        tokenizer = load_tokenizer(bundle)
        # One sequence at a time: a KV cache of one context is enough.
        kv_tokens = options.max_context or bundle.layout.max_seq_len
        engine_options = EngineOptions(options.device, options.max_context, kv_tokens)
        engine = load_engine(bundle, engine_options, tokenizer, Metrics(), _say)
        engine.start()
        try:
            if options.prompt is None:
                with contextlib.closing(load_chat_template(bundle)) as template:
                    _Chat(engine, tokenizer, template, options).hold()
            else:
                _continue(engine, tokenizer.encode(options.prompt), options)
        finally:
            engine.stop(0.0)


def _continue(engine: Engine, tokens: list[int], options: RunOptions) -> None:
    if not tokens:
        raise UsageError("PROMPT: expected a text, found nothing")
    if len(tokens) >= engine.max_context:
        raise UsageError(f"PROMPT: expected fewer than {engine.max_context} tokens (the context), found {len(tokens)}")
    _generate(engine, tokens, options, _print_piece)
    _print_piece("\n")


class _Chat:
    """A conversation in the terminal."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, template: ChatTemplate, options: RunOptions) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
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
            _generate(self._engine, tokens, self._options, emit)
        _print_piece("\n")
        self._messages.append({"role": "assistant", "content": "".join(pieces)})

    def _tokens(self) -> list[int]:
        """Token ids of the conversation, from which the oldest exchanges are dropped where it is too long.

        Raises:
            UsageError: the last message alone is too long.
        """
        bos, limit = self._tokenizer.config.bos_token, self._engine.max_context
        while True:
            hidden, mark = self._tokenizer.control_texts.hide({"messages": self._messages}, self._template.source)
            text = self._template.render(cast("list[dict[str, object]]", hidden["messages"]))
            tokens = self._tokenizer.encode(text, not (bos and text.startswith(bos)), mark=mark)
            if len(tokens) < limit:
                return tokens
            if len(self._messages) < 3:
                raise UsageError(f"expected a message of fewer than {limit} tokens (the context), found {len(tokens)}")
            del self._messages[:2]
            print("(the conversation is too long: its oldest exchange is forgotten)", file=sys.stderr)
