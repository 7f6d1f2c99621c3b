"""A scripted engine, tokenizer and template: what the HTTP layer sees, without a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rocmforge.artifacts.errors import EngineBusyError, RequestError, RocmforgeError
from rocmforge.artifacts.tokenizer_config import InfillTokens
from rocmforge.runtime.device.batch import Float32
from rocmforge.runtime.engine.embeddings import EmbeddingError, EmbeddingRequest
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import (
    EngineStats,
    GenerationRequest,
    GenerationState,
    Inbox,
    TokenEvent,
    events_of,
)
from rocmforge.runtime.engine.logprobs import TokenLogprobs
from rocmforge.runtime.http.app import HttpApp, HttpLimits, create_app
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import ServedModel, Service
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.control_text import ControlTexts, shown
from rocmforge.runtime.text.tokenizer import TooManyTokensError

BOS = "<s>"
BOS_ID = 256
VOCAB_SIZE = 300


class FakeGeneration:
    """Sends its script from a thread of its own."""

    def __init__(
        self,
        request_id: int,
        request: GenerationRequest,
        engine: FakeEngine,
        index: int = 0,
        inbox: Inbox | None = None,
    ) -> None:
        self.request_id = request_id
        self.index = index
        self.inbox = inbox or Inbox()
        self.request = request
        self.cancelled_at: float | None = None
        self._cancel = threading.Event()
        self._sent: list[TokenEvent] = []
        self._engine = engine
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def client(self) -> str:
        return self.request.client

    def _run(self) -> None:
        engine = self._engine
        script = engine.reply[: self.request.max_tokens]
        if self._cancel.wait(engine.prefill_seconds):
            return self._send(None, "", "cancelled")
        if not self.request.max_tokens:
            return self._send(None, "", "length")
        for i, text in enumerate(script):
            if self._cancel.wait(engine.token_seconds):
                return self._send(None, "", "cancelled")
            if engine.fail_after == i:
                return self._send(None, "", "failed", engine.failure)
            last = i + 1 == len(script)
            length = len(script) == self.request.max_tokens
            last = last and (length or engine.end_token is None)
            self._send(100 + i, text, ("length" if length else engine.end) if last else None)
        if engine.end_token is not None and len(script) < self.request.max_tokens:
            self._send(engine.end_token, "", engine.end)
        return None

    def _send(self, token: int | None, text: str, reason: str | None, error: Failure | None = None) -> None:
        asked = self.request.logprobs
        logprobs = None
        if token is not None and asked is not None:
            logprobs = TokenLogprobs(token, -0.5, ((token, -0.5), (65, -np.inf))[:asked])
        ends = token is not None and token == self._engine.end_token
        stop = self._engine.stop if reason == "stop" else None
        scores = () if self._sent else fake_scores(self.request)
        event = TokenEvent(
            token, text, reason is not None, reason, error, None if ends else logprobs, self.index, stop, scores
        )
        event = replace(event, end_logprobs=logprobs if ends else None)
        self._sent.append(event)
        self.inbox.put(event)

    def events(self, timeout: float | None = None) -> Iterator[TokenEvent | None]:
        return events_of([self], timeout)

    def state(self) -> GenerationState:
        sent = list(self._sent)
        last = sent[-1] if sent else TokenEvent(None, "")
        return GenerationState(
            self.request_id,
            "".join(e.text for e in sent),
            tuple(e.token for e in sent if e.token is not None),
            len(self.request.prompt_token_ids),
            last.finished,
            last.finish_reason,
            last.error,
            tuple(e.logprobs for e in sent if e.logprobs is not None),
            self._engine.cached_tokens if sent else 0,
        )

    def cancel(self) -> None:
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
        self._cancel.set()


def fake_scores(request: GenerationRequest) -> tuple[TokenLogprobs, ...]:
    """The second token of a prompt has -1.0 and the rank 3, the third -2.0 and so on; the likeliest are Z and z."""
    top = ((90, -0.25), (122, -0.5), (65, -np.inf))[: request.prompt_logprobs or 0]
    if request.prompt_logprobs is None:
        return ()
    return tuple(TokenLogprobs(token, -float(at), top, 3) for at, token in enumerate(request.prompt_token_ids[1:], 1))


class FakeEmbedding:
    """A vector that says of which tokens it was made: `fake_vector`. Never there while `prefill_seconds` is not 0."""

    def __init__(self, request: EmbeddingRequest, engine: FakeEngine) -> None:
        self.request = request
        self.cancelled = False
        self._engine = engine

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    def result(self, timeout: float | None = None) -> Float32 | None:
        if self._engine.fail_after is not None:
            raise EmbeddingError("failed", "the device is lost")
        if self._engine.prefill_seconds:
            time.sleep(min(timeout or 0.0, self._engine.prefill_seconds))
            return None
        if self.request.rank:
            return np.array([self.request.prompt_token_ids[-1], -1.0], np.float32)
        return fake_vector(self.request.prompt_token_ids, self.request.pooling or "mean")

    def cancel(self) -> None:
        self.cancelled = True


def fake_vector(ids: Sequence[int], pooling: str = "mean") -> Float32:
    """float32[4] of length 1."""
    values = np.array([sum(ids) if pooling == "mean" else ids[-1], len(ids), ids[0], 1], np.float64)
    vector: Float32 = (values / np.linalg.norm(values)).astype(np.float32)
    return vector


@dataclass
class FakeEngine:
    """Answers every prompt with `reply`."""

    reply: list[str] = field(default_factory=lambda: [" Paris", ",", " in", " France", "."])
    end: str = "eos"
    stop: str | None = None  # the stop string that ends the answer
    end_token: int | None = None  # a token of its own that ends the answer
    prefill_seconds: float = 0.0
    token_seconds: float = 0.0
    fail_after: int | None = None
    failure: Failure = field(default_factory=lambda: Failure("the device is lost"))
    busy: bool = False
    broken: bool = False
    running: bool = True
    slots: tuple[int, int, int] = (0, 0, 0)
    ranks: bool = False
    cached_tokens: int = 0  # of each prompt, known once there is a token
    max_context: int = 128
    vocab_size: int = VOCAB_SIZE
    generations: list[FakeGeneration] = field(default_factory=list)
    embeddings: list[FakeEmbedding] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(self, request: GenerationRequest) -> FakeGeneration:
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[FakeGeneration]:
        if self.broken:
            raise ZeroDivisionError("a secret")
        if self.busy:
            raise EngineBusyError("the queue is full")
        if not all(request.prompt_token_ids for request in requests):
            raise RequestError("prompt", "expected at least one token, found none")
        inbox = Inbox()
        with self.lock:
            known = len(self.generations)
            made = [FakeGeneration(known + 1 + i, one, self, i, inbox) for i, one in enumerate(requests)]
            self.generations += made
        return made

    def embed(self, requests: Sequence[EmbeddingRequest]) -> list[FakeEmbedding]:
        if self.busy:
            raise EngineBusyError("the queue is full")
        if not self.ranks and any(request.rank for request in requests):
            raise RequestError("model", "it is not made to rank texts")
        made = [FakeEmbedding(request, self) for request in requests]
        self.embeddings += made
        return made

    def find(self, request_id: int) -> FakeGeneration | None:
        return self.generations[request_id - 1] if 1 <= request_id <= len(self.generations) else None

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self.running,
            active=2,
            queued=1,
            pages_used=128,
            pages_total=1000,
            active_sequences=2,
            tokens_per_second=32.5,
            device_available=self.running,
            memory_free_bytes=12884901888,
            memory_total_bytes=17179869184,
            state_slots_used=self.slots[0],
            state_slots_total=self.slots[1],
            state_slots_cached=self.slots[2],
        )

    @property
    def last(self) -> FakeGeneration:
        return self.generations[-1]


@dataclass
class FakeConfig:
    bos_token: str = BOS
    eos_token_ids: tuple[int, ...] = (257,)
    eos_token: str = "</s>"
    add_bos: bool = True
    add_eos: bool = False
    vocab_size: int = VOCAB_SIZE
    bos_token_id: int | None = BOS_ID
    eos_token_id: int | None = 257
    sep_token_id: int | None = None
    infill: InfillTokens = field(default_factory=InfillTokens)


class FakeTokenizer:
    """One token a byte."""

    def __init__(self) -> None:
        self.config = FakeConfig()
        self.control_texts = ControlTexts([BOS])
        self.end_texts = ("<|im_end|>",)

    def encode(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = True,
        most: int | None = None,
        look: Callable[[], None] | None = None,
        mark: str = "",
    ) -> list[int]:
        ids = [BOS_ID] if add_special else []
        if parse_special and text.startswith(BOS):
            ids, text = [*ids, BOS_ID], text.removeprefix(BOS)
        text = shown(text, mark)
        ids += list(text.encode("utf-8", "replace"))
        if most is not None and len(ids) > most:
            raise TooManyTokensError(ids[: most + 1], most + 1)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class FakeTemplate:
    """`role:content` lines; refuses a conversation that begins with the assistant, and where it is `strict` one whose
    system message is not the first."""

    def __init__(self, prefix: str = "", strict: bool = False) -> None:
        self.prefix = prefix
        self.strict = strict
        self.messages: Sequence[Mapping[str, object]] = ()
        self.tools: Sequence[Mapping[str, object]] | None = None
        self.extra: Mapping[str, object] = {}
        self.opens = True
        self.suffix = ""
        self.source = "{{ messages }}{{ tools }}"
        self.takes_tools = True

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        **extra: object,
    ) -> str:
        self.messages = messages
        self.tools = tools
        self.extra = extra
        self.opens = add_generation_prompt
        if not messages or messages[0]["role"] == "assistant":
            raise RocmforgeError("chat template: the user begins")
        if self.strict and any(message["role"] == "system" for message in messages[1:]):
            raise RocmforgeError("chat template: user and assistant take turns")
        return self.prefix + "".join(f"{m['role']}:{m['content']}\n" for m in messages) + self.suffix


MODEL = ServedModel(
    name="org/tiny:q4",
    path="/models/tiny.rfb",
    size_bytes=4096,
    created=1700000000,
    metadata={
        "general.architecture": "llama",
        "general.name": "Tiny",
        "llama.context_length": 256,
        "llama.embedding_length": 4,
    },
    context_length=128,
    fingerprint="sha256-abc",
    parameters=8_030_261_248,
    quantization="Q4_K_M",
    tensor_count=272,
    vocab_size=VOCAB_SIZE,
    weights_bytes=4_000_000,
    template="{{ messages }}{{ tools }}",
)


def make_app(
    engine: FakeEngine,
    limits: HttpLimits | None = None,
    template: FakeTemplate | None = None,
    security: Security | None = None,
    model: ServedModel = MODEL,
    tokenizer: FakeTokenizer | None = None,
) -> HttpApp:
    service = Service(engine, tokenizer or FakeTokenizer(), template or FakeTemplate(), model)
    return create_app(OneModel(service), Metrics(), limits or HttpLimits(poll_seconds=0.02), security)
