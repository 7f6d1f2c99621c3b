"""A loaded model: what a program generates, embeds and scores with."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast, get_args, overload

import numpy as np
import numpy.typing as npt

from ..artifacts.errors import RequestError, shown
from ..runtime.engine.embeddings import EmbeddingRequest, Pooling
from ..runtime.engine.engine import Engine
from ..runtime.engine.generation import (
    EngineStats,
    Generation,
    GenerationRequest,
    TokenEvent,
)
from ..runtime.text.chat import ChatTemplate
from ..runtime.text.control_text import NoMarkError
from ..runtime.text.tokenizer import Tokenizer
from .adapters import Adapters, scales_of
from .answers import ChatAnswer, ChatPiece, Completion, Piece, Score
from .checks import check_text, checked_ids, is_list
from .events import check_event, completion_of, reason_of
from .images import Image, SeenPrompt, given_images, seen_prompt
from .params import GenerationParams, check_params, request_of

if TYPE_CHECKING:
    from ..artifacts.vision import Vision
    from ..runtime.text.answer_format import AnswerFormat
    from ..runtime.text.constraints import ConstraintCompiler
    from .chat import ChatPrompt, Message, ToolChoice, Tools

# ruff: noqa: PLC0415 - what only chats, constraints and rankings need is imported with the first: 11 ms of the start

Float32 = npt.NDArray[np.float32]
Prompt = str | tuple[int, ...] | SeenPrompt
"""A text, its token ids, or a text with images."""
Prompts = list[str] | list[tuple[int, ...]] | list[SeenPrompt] | list[Prompt]
"""Several of them."""

DEFAULT: Final = GenerationParams()
_LOOK_SECONDS: Final = 0.5  # how often a thread that waits can be interrupted
_T = TypeVar("_T")


class Model:
    """A bundle on its device, made by `rocmforge.load`. Close it, or use it in a `with`.

    Methods take one input or a list of them. Those of a list are computed together, in batches, and so are those of
    several threads: a model may be shared. An input's result does not depend on what is computed beside it. Where one
    input of a list fails, the others are cancelled.

    All methods raise `RequestError`, which names the parameter at fault, for what can never be computed, and another
    `RocmforgeError` where the device fails.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        opened: contextlib.ExitStack,
        rerank_template: str | None = None,
        vision: Vision | None = None,
    ) -> None:
        """Args: an engine that runs, its model's tokenizer, templates and eyes, and what `close` is to close."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self._opened = opened
        self._rerank_template = rerank_template
        self._vision = vision

    @functools.cached_property
    def _constraints(self) -> ConstraintCompiler:
        from ..runtime.text.constraints import ConstraintCompiler

        return ConstraintCompiler(self._tokenizer)

    @functools.cached_property
    def _answers(self) -> AnswerFormat:
        from ..runtime.text.answer_format import answer_format

        return answer_format(self._template, self._tokenizer)

    def close(self) -> None:
        """End what is computed, and free the device."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def max_context(self) -> int:
        """Most tokens of a prompt and what follows it."""
        return self._engine.max_context

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._engine.vocab_size

    def stats(self) -> EngineStats:
        """What the engine does now, and has done."""
        return self._engine.stats()

    def encode(self, text: str, add_special: bool = True) -> tuple[int, ...]:
        """Token ids of a text, as `generate` reads it; `add_special`: with BOS and EOS where the model wants them."""
        check_text("text", text)
        return tuple(self._tokenizer.encode(text, add_special))

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of token ids."""
        return self._tokenizer.decode(checked_ids("token_ids", token_ids))

    def with_images(self, text: str, images: Sequence[Image]) -> SeenPrompt:
        """Return a prompt of images and a text behind them, for `generate` and `stream`.

        Args:
            text: control tokens are read as such.
            images: paths of files, or their bytes.
        """
        check_text("text", text)
        given = given_images(images, "images")
        marked = "".join(image.mark for image in given) + text
        return seen_prompt(marked, given, self._vision, self._tokenizer.encode)

    # Texts.

    @overload
    def generate(
        self, prompt: Prompt, params: GenerationParams = DEFAULT, *, adapter: Adapters = None
    ) -> Completion: ...

    @overload
    def generate(
        self, prompt: Prompts, params: GenerationParams = DEFAULT, *, adapter: Adapters = None
    ) -> list[Completion]: ...

    def generate(
        self, prompt: Prompt | Prompts, params: GenerationParams = DEFAULT, *, adapter: Adapters = None
    ) -> Completion | list[Completion]:
        """Continue a prompt, or each of a list.

        Args:
            prompt: text or token ids, or what `with_images` returned; control tokens are read as such.
            params: how, and for how long.
            adapter: of those that the bundle has, the name of one, or scales by name; or a list, one for each prompt.
        """
        ends: dict[int, Completion] = {}
        for event, generation in self._run(self._requests(_several(prompt, "prompt"), params, adapter)):
            if event.finished:
                ends[event.index] = completion_of(generation)
        return [ends[index] for index in range(len(ends))] if isinstance(prompt, list) else ends[0]

    def stream(
        self, prompt: Prompt | Prompts, params: GenerationParams = DEFAULT, *, adapter: Adapters = None
    ) -> Generator[Piece, None, None]:
        """Continue a prompt, or each of a list, token by token. Closing the iterator ends what is computed.

        Args:
            prompt: see `generate`; pieces of several come as they are made, each with its prompt's index.
            params: see `generate`.
            adapter: see `generate`.
        """
        for event, _ in self._run(self._requests(_several(prompt, "prompt"), params, adapter)):
            yield Piece(event.text, event.token, event.index, reason_of(event), event.logprobs)

    # Chats.

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: GenerationParams = DEFAULT,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        template_variables: Mapping[str, object] | None = None,
        adapter: Adapters = None,
    ) -> ChatAnswer: ...

    @overload
    def chat(
        self,
        messages: Sequence[Sequence[Message]],
        params: GenerationParams = DEFAULT,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        template_variables: Mapping[str, object] | None = None,
        adapter: Adapters = None,
    ) -> list[ChatAnswer]: ...

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: GenerationParams = DEFAULT,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        template_variables: Mapping[str, object] | None = None,
        adapter: Adapters = None,
    ) -> ChatAnswer | list[ChatAnswer]:
        """Answer a conversation, or each of a list.

        Args:
            messages: `{"role": ..., "content": ...}` each; see `ChatAnswer.message` for one that calls tools.
            params: see `generate`; a constraint is that of the answer.
            tools: that the model may call, in OpenAI's form.
            tool_choice: whether it may, must not or must.
            template_variables: further variables of the chat template, such as `enable_thinking`.
            adapter: see `generate`.
        """
        pieces = self.stream_chat(
            messages,
            params,
            tools=tools,
            tool_choice=tool_choice,
            template_variables=template_variables,
            adapter=adapter,
        )
        answers = {piece.index: piece.answer for piece in pieces if piece.answer is not None}
        found = [answers[index] for index in range(len(answers))]
        return found if _are_several(messages) else found[0]

    def stream_chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: GenerationParams = DEFAULT,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        template_variables: Mapping[str, object] | None = None,
        adapter: Adapters = None,
    ) -> Generator[ChatPiece, None, None]:
        """Answer a conversation, or each of a list, token by token; the last piece of each has the whole answer."""
        from .chat import AnswerReader, read_tools

        check_params(params, self.vocab_size)
        read = read_tools(tools, tool_choice)
        several = cast("Sequence[Sequence[Message]]", messages if _are_several(messages) else [messages])
        prompts = [self._chat_prompt(one, read, template_variables) for one in several]
        spec = read.constraint(params.constraint(), self._answers)
        readers = [AnswerReader(self._answers, read, prompt, spec is not None) for prompt in prompts]
        requests = [
            replace(request, kept_tokens=self._answers.kept_tokens)
            for request in self._requests(
                [SeenPrompt(prompt.token_ids, prompt.pictures) for prompt in prompts], params, adapter, read
            )
        ]
        for event, generation in self._run(requests):
            reader, reason = readers[event.index], reason_of(event)
            reasoning, content = reader.read(event.text, reason)
            # None of one that failed: `_run` raises what it did once this piece is taken.
            answer = None if reason is None else reader.answer(completion_of(generation))
            yield ChatPiece(content, reasoning, event.index, answer)

    def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        template_variables: Mapping[str, object] | None = None,
        adapter: Adapters = None,
    ) -> tuple[int, ...]:
        """Token ids of a conversation up to the opening of the assistant's turn; arguments as `chat` has them."""
        from .chat import read_tools

        return self._chat_prompt(messages, read_tools(tools, "auto"), template_variables).token_ids

    def _chat_prompt(
        self, messages: Sequence[Message], tools: Tools, variables: Mapping[str, object] | None
    ) -> ChatPrompt:
        from .chat import chat_prompt

        variables = {} if variables is None else variables
        return chat_prompt(messages, tools, variables, self._tokenizer, self._template, self._vision)

    # Vectors and likelihoods.

    @overload
    def embed(self, text: Prompt, pooling: Pooling | None = None, *, adapter: Adapters = None) -> Float32: ...

    @overload
    def embed(self, text: Prompts, pooling: Pooling | None = None, *, adapter: Adapters = None) -> list[Float32]: ...

    def embed(
        self, text: Prompt | Prompts, pooling: Pooling | None = None, *, adapter: Adapters = None
    ) -> Float32 | list[Float32]:
        """float32[hidden_size] of length 1 for a text, or for each of a list: of the model's last hidden states.

        Args:
            text: or token ids.
            pooling: mean of all tokens, `last` or first (`cls`); None: as the model was made for, else the mean.
            adapter: see `generate`.
        """
        if pooling not in (None, *get_args(Pooling)):
            raise RequestError("pooling", f"expected mean, last or cls, found {shown(pooling)}")
        texts = [self._token_ids(one, "text") for one in _several(text, "text")]
        pairs = zip(texts, scales_of(adapter, len(texts)), strict=True)
        vectors = self._vectors([EmbeddingRequest(ids, pooling, adapters=scales) for ids, scales in pairs])
        return vectors if isinstance(text, list) else vectors[0]

    def rank(self, query: str, documents: list[str]) -> list[float]:
        """How well each document answers a query, in the model's own measure; of a model that was made to rank.

        Args:
            query: text.
            documents: texts, in any order.
        """
        from ..runtime.text.rerank import rerank_ids

        check_text("query", query)
        if not is_list(documents):
            raise RequestError("documents", f"expected a list of texts, found {shown(documents)}")
        prompts = []
        for index, document in enumerate(documents):
            check_text(f"documents[{index}]", document)
            try:
                prompts.append(rerank_ids(self._tokenizer, self._rerank_template, query, document))
            except NoMarkError:
                expected = "expected not every character that is for private use"
                raise RequestError(f"documents[{index}]", expected) from None
        return [float(scores[0]) for scores in self._vectors([EmbeddingRequest(p, None, rank=True) for p in prompts])]

    def _vectors(self, requests: list[EmbeddingRequest]) -> list[Float32]:
        pending = self._engine.embed(requests)
        try:
            vectors = []
            for one in pending:
                while (vector := one.result(_LOOK_SECONDS)) is None:
                    pass
                vectors.append(vector)
        except BaseException:
            for one in pending:
                one.cancel()
            raise
        return vectors

    @overload
    def score(self, prompt: Prompt, continuation: Prompt, *, adapter: Adapters = None) -> Score: ...

    @overload
    def score(self, prompt: Prompts, continuation: Prompts, *, adapter: Adapters = None) -> list[Score]: ...

    def score(
        self, prompt: Prompt | Prompts, continuation: Prompt | Prompts, *, adapter: Adapters = None
    ) -> Score | list[Score]:
        """How likely the model holds a continuation to be after a prompt; of two lists, each after its prompt.

        Args:
            prompt: text or token ids.
            continuation: the same; text is tokenized by itself, without BOS.
            adapter: see `generate`.
        """
        if isinstance(prompt, list) != isinstance(continuation, list):
            raise RequestError("continuation", "expected a list beside a list, and one beside one")
        prompts, texts = _several(prompt, "prompt"), _several(continuation, "continuation")
        if len(prompts) != len(texts):
            raise RequestError("continuation", f"expected {len(prompts)}, one for each prompt, found {len(texts)}")
        pairs = [
            (self._token_ids(one, "prompt"), self._token_ids(text, "continuation", False))
            for one, text in zip(prompts, texts, strict=True)
        ]
        for before, ids in pairs:
            if not before or not ids:
                name = "continuation" if before else "prompt"
                raise RequestError(name, "expected at least one token, found none")
        scores: dict[int, Score] = {}
        requests = [
            GenerationRequest(before + ids, 0, prompt_logprobs=0, adapters=scales)
            for (before, ids), scales in zip(pairs, scales_of(adapter, len(pairs)), strict=True)
        ]
        for event, _ in self._run(requests):
            if event.prompt_logprobs:
                ids = pairs[event.index][1]
                logprobs = event.prompt_logprobs[-len(ids) :]
                scores[event.index] = Score(ids, tuple(one.logprob for one in logprobs))
        found = [scores[index] for index in range(len(pairs))]
        return found if isinstance(prompt, list) else found[0]

    # What they share.

    def _token_ids(self, prompt: Prompt, name: str, add_special: bool = True, sees: bool = False) -> tuple[int, ...]:
        """Token ids of an input; `sees`: the caller takes the pictures of a `SeenPrompt` with them.

        Raises:
            RequestError: it is of no such type, or has pictures that would be left out.
        """
        if isinstance(prompt, str):
            return self.encode(prompt, add_special)
        if isinstance(prompt, SeenPrompt):
            if prompt.pictures and not sees:
                raise RequestError(name, "expected no images")
            return prompt.token_ids
        if isinstance(prompt, tuple) and all(isinstance(token, int) for token in prompt):
            return prompt
        raise RequestError(name, f"expected a text or a tuple of token ids, found {shown(prompt)}")

    def _requests(
        self, prompts: Sequence[Prompt], params: GenerationParams, adapter: Adapters, tools: Tools | None = None
    ) -> list[GenerationRequest]:
        check_params(params, self.vocab_size)
        spec = params.constraint() if tools is None else tools.constraint(params.constraint(), self._answers)
        return [
            replace(
                request_of(
                    self._token_ids(prompt, "prompt", sees=True),
                    params,
                    None if spec is None else self._constraints.compile(spec),
                    self.max_context,
                    scales,
                ),
                pictures=prompt.pictures if isinstance(prompt, SeenPrompt) else (),
            )
            for prompt, scales in zip(prompts, scales_of(adapter, len(prompts)), strict=True)
        ]

    def _run(self, requests: list[GenerationRequest]) -> Iterator[tuple[TokenEvent, Generation]]:
        """Yield the events of all as they come, until the last has ended; what is left is cancelled."""
        generations = self._engine.submit_all(requests)
        unfinished = len(generations)
        try:
            while unfinished:
                try:
                    event = generations[0].inbox.get(_LOOK_SECONDS)
                except queue.Empty:
                    continue
                unfinished -= event.finished
                yield event, generations[event.index]
                check_event(event)
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise


def _several(value: _T | list[Any], name: str) -> list[Any]:
    """The inputs of a list; of one input, it alone."""
    if not isinstance(value, list):
        return [value]
    if not value:
        raise RequestError(name, "expected at least one, found an empty list")
    return value


def _are_several(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> bool:
    return is_list(messages) and bool(messages) and is_list(messages[0])
