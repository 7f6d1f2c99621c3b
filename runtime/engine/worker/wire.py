"""What a server and its worker say to each other: frames of msgpack over a socket pair.

Both ends are the same files, read by the same interpreter, so there are no versions to tell apart: a message is a
frozen dataclass, on the wire a map of its code, which is its place in `_KINDS`, to its fields. Nothing else is a map. A
frame holds what has come since the last.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import field
from operator import attrgetter
from typing import Any, Final

import msgpack

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import printable
from ...device.batch import UInt32
from ...pictures.patches import Picture
from ...text.constraints import ConstraintSpec, Kind
from ..embeddings import EmbeddingRequest
from ..engine import EngineLimits
from ..failure import Failure
from ..generation import DeviceStats, DraftStats, EngineStats, GenerationRequest, SamplingParams, TokenEvent
from ..lifecycle import RequestEvent
from ..logprobs import TokenLogprobs
from ..pictures import PlacedPicture

STARTING: Final = 0  # the call that `Start` is


@dataclass(frozen=True, slots=True)
class Start:
    """The first message to a worker: what to run.

    Attributes:
        bundle: path.
        digest: that the bundle has to have.
        stamps: of its weights, with which their content is known to be the manifest's; None: as they are found.
        device, threads, graphs, gpu_layers, cpu_experts, state_slots: see `DeviceOptions` and `WeightPlaces`.
        emulator: `module:name` of what makes an emulated GPU.
        max_context, kv_tokens, limits: see `EngineOptions`.
        draft, draft_digest, draft_stamps: of the draft model's bundle, as those above; None: there is none.
        log_level: least level of records that are wanted.
    """

    bundle: str
    digest: str
    device: str
    threads: int | None
    graphs: str = "auto"
    emulator: str | None = None
    max_context: int | None = None
    kv_tokens: int | None = None
    limits: EngineLimits = field(default_factory=EngineLimits)
    log_level: int = 0
    stamps: tuple[tuple[int, int], ...] | None = None
    gpu_layers: int | None = None
    cpu_experts: int | None = None
    state_slots: int | None = None
    draft: str | None = None
    draft_digest: str = ""
    draft_stamps: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """It serves. `device`: what to ask for the next time; `stamps` as in `Start`; tokens a block, sequences a step."""

    device: str
    stamps: tuple[tuple[int, int], ...]
    max_context: int
    vocab_size: int
    block_size: int
    max_sequences: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Queue all of these, under these numbers, or none. Answered; each is told of by a `RequestEvent` before that."""

    call: int
    ids: tuple[int, ...]
    requests: tuple[GenerationRequest, ...] | tuple[EmbeddingRequest, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request."""

    request_id: int


@dataclass(frozen=True, slots=True)
class AskStats:
    """Answered with `EngineStats`, once the device has said what memory it has."""

    call: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered with `Heartbeat` at once, whatever the device does."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker reads and writes."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Take no more, let those in flight end for so many seconds, and end."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a call, or of `Start`; `fault`: why it came to nothing."""

    call: int
    stats: EngineStats | None = None
    fault: Failure | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The device is lost, or the bundle torn: the worker waits to be ended."""

    problem: str


@dataclass(frozen=True, slots=True)
class Generated:
    """Of a generation, more than a plain token.

    `cached`: tokens of its prompt that lay in the cache, as far as is known.
    """

    request_id: int
    event: TokenEvent
    cached: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """The end of an embedding. `vector`: float32[hidden_size], its bytes; None: there is none, for `reason`."""

    request_id: int
    vector: bytes | None
    reason: str
    problem: str | None


Event = tuple[int, int, str] | Generated | Embedded
"""Of a request. A plain token is its request's number, the token and its text."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """What the engine counts but once a step: see `EngineMetrics`. `arguments` are those of its method `name`."""

    name: str
    arguments: tuple[float | str, ...]


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the worker's log."""

    logger: str
    level: int
    message: str


@dataclass(frozen=True, slots=True)
class DeferredConstraint:
    """A constraint that is made where its masks are wanted, beside the device. `source`: of its spec, as JSON."""

    kind: Kind
    source: str
    parameter: str

    def spec(self) -> ConstraintSpec:
        """What it is made of."""
        return ConstraintSpec(self.kind, json.loads(self.source), self.parameter)

    def mask(self) -> UInt32:
        """See `Constraint`; only the worker's own has masks."""
        raise NotImplementedError

    def take(self, token: int) -> bool:
        """See `mask`."""
        raise NotImplementedError

    def copy(self) -> DeferredConstraint:
        """See `mask`."""
        raise NotImplementedError


class DeferredConstraints:
    """A `ConstraintApi` whose constraints are made, and refused, by the worker."""

    def compile(self, spec: ConstraintSpec) -> DeferredConstraint:
        """Return what travels."""
        return DeferredConstraint(spec.kind, json.dumps(spec.source), spec.parameter)


_KINDS: Final[tuple[Any, ...]] = (
    Start,
    Ready,
    Submit,
    Cancel,
    AskStats,
    Ping,
    Heartbeat,
    Stop,
    Answer,
    Lost,
    Generated,
    Embedded,
    StepDone,
    Logged,
    DeferredConstraint,
    DeviceStats,
    DraftStats,
    EmbeddingRequest,
    EngineLimits,
    EngineStats,
    Failure,
    GenerationRequest,
    Picture,
    PlacedPicture,
    RequestEvent,
    SamplingParams,
    TokenEvent,
    TokenLogprobs,
)


def _reader_of(kind: Any) -> Callable[[object], tuple[object, ...]]:
    """What reads the fields of such a message."""
    names = [one.name for one in dataclasses.fields(kind)]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


_WRITTEN: Final = {kind: (code, _reader_of(kind)) for code, kind in enumerate(_KINDS)}


def encode(frame: object) -> bytes:
    """A frame's msgpack. TypeError: it holds what does not travel."""
    data: bytes = msgpack.packb(frame, default=_encode_one, unicode_errors="surrogatepass")
    return data


def _encode_one(value: object) -> dict[int, tuple[object, ...]]:
    # No `ExtType`: each would need a packer of its own, whose buffer is 256 KiB.
    written = _WRITTEN.get(type(value))
    if written is None:
        raise TypeError(f"does not travel: {printable(repr(value))}")
    code, read = written
    return {code: read(value)}


def decode(data: bytes) -> Any:
    """The frame of its msgpack."""
    return msgpack.unpackb(
        data, use_list=False, object_pairs_hook=_decode_one, strict_map_key=False, unicode_errors="surrogatepass"
    )


def _decode_one(pairs: Sequence[tuple[int, tuple[Any, ...]]]) -> object:
    ((code, fields),) = pairs
    return _KINDS[code](*fields)
