"""A certificate of equivalence: two bundles run side by side, and their logits compared to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artifacts.bundle import Bundle
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import BundleError
from ..artifacts.vision import VISION_PART
from .device.batch import Batch, Program, close_program
from .device.golden import checked_prompt
from .device.load import DeviceOptions, load_program
from .device.memory import KvSize
from .device.solo import Solo
from .engine.loading import load_tokenizer
from .engine.part_records import probe_in

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parting:
    """The first position of a text at which the logits of two bundles are not equal to the bit.

    Attributes:
        position: tokens before it.
        token: the last one read; -1: it is a row of a part, which reads something else.
        logits: how many of the row differ.
        largest: the largest difference of one, in logits; NaN where one is not a number.
        at: the token that this one is of.
        likely: the most likely next token of each.
    """

    position: int
    token: int
    logits: int
    largest: float
    at: int
    likely: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TextResult:
    """What two bundles made of one text: `sha256` of all logits, float32, one position after another, of the first."""

    text: str
    positions: int
    sha256: str
    parting: Parting | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What running two bundles side by side has shown.

    Attributes:
        digests: of the bundles.
        device: as it was asked for.
        texts: each that was run, up to the first position that differs.
        problem: why they cannot be compared; "" where they were.
    """

    digests: tuple[str, str]
    device: str
    texts: tuple[TextResult, ...]
    problem: str = ""

    @property
    def equivalent(self) -> bool:
        """Whether all logits of all texts are equal to the bit."""
        return not self.problem and bool(self.texts) and all(text.parting is None for text in self.texts)


def certify(first: Bundle, second: Bundle, options: DeviceOptions, text: str | None) -> Certificate:
    """Run the golden prompts of both bundles, each with its answer, and a text, on both; and those of parts of both.

    A text longer than the context is cut into pieces that begin anew.

    Args:
        first: verified,
        second: too.
        options: where to run them.
        text: compared too.

    Raises:
        BundleError: a golden record is malformed. RocmforgeError: one does not run here.
    """
    digests = (first.manifest.bundle_digest, second.manifest.bundle_digest)
    sizes = [bundle.layout.vocab_size for bundle in (first, second)]
    if sizes[0] != sizes[1]:
        return Certificate(digests, options.device, (), f"vocabularies of {sizes[0]} and {sizes[1]} tokens")
    context = min(bundle.layout.max_seq_len for bundle in (first, second))
    texts = [(f"golden record {i}", tokens) for i, tokens in enumerate(_golden_texts(first, second, context))]
    if text is not None:
        encoded = [load_tokenizer(bundle).encode(text) for bundle in (first, second)]
        if encoded[0] != encoded[1]:
            return Certificate(digests, options.device, (), f"the text is {_parted_tokens(*encoded)}")
        texts.append(("text", encoded[0]))
    if first.layout.both_ways or second.layout.both_ways:
        context = min(context, first.layout.max_batch_tokens, second.layout.max_batch_tokens)
    longest = min(context, max((len(tokens) for _, tokens in texts), default=0))
    if not longest:
        return Certificate(digests, options.device, (), "neither has golden records, and no text is given")
    programs: list[Program] = []
    try:
        for bundle in (first, second):
            blocks = -(-longest // bundle.layout.kv.block_size)
            programs.append(load_program(bundle, options, KvSize(blocks, longest), lambda _: None))
        results = [_compare(name, tokens, longest, programs) for name, tokens in texts]
    finally:
        for program in programs:
            close_program(program)
    for name in sorted(first.manifest.parts.keys() & second.manifest.parts.keys()):
        sizes = [bundle.part(name).layout.vocab_size for bundle in (first, second)]
        if sizes[0] != sizes[1]:
            problem = f"rows of {sizes[0]} and {sizes[1]} numbers of the part {name}"
            return Certificate(digests, options.device, tuple(results), problem)
        results += _compare_parts(first, second, name, options)
    return Certificate(digests, options.device, tuple(results))


def _compare_parts(first: Bundle, second: Bundle, name: str, options: DeviceOptions) -> Iterator[TextResult]:
    """Run what the golden records of a part in both bundles begin with on both."""
    bundles = (first, second)
    probes = [probe_in(bundle, name) for bundle in bundles]
    records = [record for bundle in bundles for record in bundle.manifest.parts[name].golden]
    given: list[dict[str, Any]] = []
    for record in records:
        safe = [probe.checked(bundle.path, record) for bundle, probe in zip(bundles, probes, strict=True)]
        if safe[0] not in given:
            given.append(safe[0])
    if not given:
        return
    options = replace(options, graphs="off") if name == VISION_PART else options
    programs: list[Program] = []
    try:
        for bundle, probe in zip(bundles, probes, strict=True):
            programs.append(load_program(bundle.part(name), options, KvSize(probe.blocks, 1), lambda _: None))
        for index, one in enumerate(given):
            both = [probe.rows(program, one) for probe, program in zip(probes, programs, strict=True)]
            yield _compare_rows(f"{name} golden record {index}", *both)
    finally:
        for program in programs:
            close_program(program)


def _compare_rows(name: str, one: Logits, other: Logits) -> TextResult:
    """Compare what a part made of one record, a position a row."""
    digest = hashlib.sha256()
    for row, pair in enumerate(zip(one, other, strict=True)):
        if pair[0].tobytes() != pair[1].tobytes():
            return TextResult(name, row, digest.hexdigest(), _parting(row, -1, *pair))
        digest.update(pair[0].tobytes())
    return TextResult(name, len(one), digest.hexdigest(), None)


def _parted_tokens(one: Sequence[int], other: Sequence[int]) -> str:
    place = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(one), len(other)) if place is None else place
    return f"{len(one)} tokens to one and {len(other)} to the other, which differ from token {at} on"


def _golden_texts(first: Bundle, second: Bundle, context: int) -> list[list[int]]:
    """Return the prompts of both, each once, with the greedy tokens that follow, as far as they fit."""
    texts: dict[tuple[int, ...], list[int]] = {}
    for bundle in (first, second):
        for record in bundle.manifest.golden:
            prompt = checked_prompt(bundle.path, record, bundle.layout)
            greedy = record.get("greedy")
            size = bundle.layout.vocab_size
            if not isinstance(greedy, list) or not all(type(one) is int and 0 <= one < size for one in greedy):
                raise BundleError(bundle.path, "golden.greedy", f"expected token ids from 0 to {size - 1}")
            texts.setdefault(tuple(prompt), [*prompt, *greedy][:context])
    return list(texts.values())


def _compare(name: str, tokens: Sequence[int], window: int, programs: Sequence[Program]) -> TextResult:
    digest, positions = hashlib.sha256(), 0
    for begin in range(0, len(tokens), window):
        for one, other in _side_by_side(tokens[begin : begin + window], programs):
            for rows in zip(one, other, strict=True):
                if rows[0].tobytes() != rows[1].tobytes():
                    parting = _parting(positions, int(tokens[positions]), *rows)
                    return TextResult(name, positions, digest.hexdigest(), parting)
                digest.update(rows[0].tobytes())
                positions += 1
    return TextResult(name, positions, digest.hexdigest(), None)


def _side_by_side(tokens: Sequence[int], programs: Sequence[Program]) -> Iterator[tuple[Logits, Logits]]:
    """Yield the logits of both at the next positions, float32[positions, vocab_size], as many as a step has rows."""
    layouts = [program.layout for program in programs]
    size = min(min(layout.max_sequences, layout.max_batch_tokens) for layout in layouts)
    is_whole = any(layout.both_ways for layout in layouts)  # then a step has all of a text, if not all of its logits
    alone = [Solo(layout) for layout in layouts]
    blocks = min(program.num_blocks for program in programs)
    for begin in range(0, len(tokens), size):
        end = min(begin + size, len(tokens))
        first = 0 if is_whole else begin
        ids = tokens if is_whole else tokens[begin:end]
        steps = [solo.batch(ids, first, blocks, range(begin - first, end - first)) for solo in alone]
        one, other = (_logits(program, step) for program, step in zip(programs, steps, strict=True))
        yield one, other


def _logits(program: Program, step: Batch) -> Logits:
    program.step(step)
    return program.logits(len(step.logits_rows))


def _parting(position: int, token: int, one: Logits, other: Logits) -> Parting:
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    at = int(np.argmax(apart))  # NaN first
    return Parting(
        position,
        token,
        int(np.count_nonzero(one.view(np.uint32) != other.view(np.uint32))),
        float(apart[at]),
        at,
        (int(np.argmax(one)), int(np.argmax(other))),
    )
