"""`rfc run`: one prompt, or a chat, in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.bundle import open_bundle
from .engine import Engine
from .generation import GenerationRequest, RequestError, SamplingParams
from .metrics import Metrics
from .serve import ServeOptions, load_chat_template, load_engine, load_tokenizer
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to generate with. `prompt` None: a chat."""

    bundle: Path
    prompt: str | None
    max_tokens: int
    sampling: SamplingParams
    threads: int
    max_context: int | None


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _generate(engine: Engine, tokens: list[int], options: RunOptions, emit: Callable[[str], None]) -> str:
    room = engine.max_context - len(tokens)
    if room < 1:
        raise RequestError("prompt", f"{len(tokens)} tokens leave no room in a context of {engine.max_context}")
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
        raise RequestError("generation", state.error)
    return state.text


def run_bundle(options: RunOptions) -> None:
    """Continue a prompt, or hold a chat until the end of input.

    Raises:
        RocmforgeError: the bundle or the device is not to be had, or the prompt is too long.
    """
    bundle = open_bundle(options.bundle)
    tokenizer = load_tokenizer(bundle)
    serve_options = ServeOptions(options.bundle, "", 0, options.threads, options.max_context)
    engine = load_engine(bundle, serve_options, tokenizer, Metrics())
    engine.start()
    try:
        if options.prompt is None:
            template = load_chat_template(bundle, tokenizer.config)
            _chat(engine, tokenizer, template.render, options)
        else:
            _generate(engine, tokenizer.encode(options.prompt), options, _print_piece)
            _print_piece("\n")
    finally:
        engine.stop(0.0)
        bundle.close()


def _chat(
    engine: Engine,
    tokenizer: Tokenizer,
    render: Callable[[Sequence[Mapping[str, object]]], str],
    options: RunOptions,
) -> None:
    messages: list[dict[str, object]] = []
    while True:
        try:
            question = input("> ")
        except (EOFError, KeyboardInterrupt):
            _print_piece("\n")
            return
        if not question.strip():
            continue
        messages.append({"role": "user", "content": question})
        text = render(messages)
        has_bos = bool(tokenizer.config.bos_token) and text.startswith(tokenizer.config.bos_token)
        tokens = tokenizer.encode(text, add_special=not has_bos)
        try:
            answer = _generate(engine, tokens, options, _print_piece)
        except KeyboardInterrupt:
            answer = ""
        _print_piece("\n")
        messages.append({"role": "assistant", "content": answer})
