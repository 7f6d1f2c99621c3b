"""What a GPU computes for a bundle, into a file: once on AMD's runtime, once on the emulated one, to be compared.

python -m rocmforge.tests.amd.scenario BUNDLE OUTPUT.npz hip|emulated:ARCH PART...
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.runtime.device.batch import Batch, Program, RowSampling
from rocmforge.runtime.device.golden import record_golden
from rocmforge.runtime.device.hip.api import HipApi, load_hip
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.parts import load_part
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.eyes import Eyes
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.engine.part_records import probe_in
from rocmforge.runtime.engine.picture_encoder import PictureEncoder
from rocmforge.runtime.pictures.encode import load_vision, vision_of
from rocmforge.runtime.pictures.patches import Picture
from rocmforge.runtime.text.constraints import ConstraintCompiler, ConstraintSpec
from rocmforge.tests.support.drafting import headed
from rocmforge.tests.support.emulated_programs import greedy
from rocmforge.tests.support.engine_harness import ended, serving
from rocmforge.tests.support.pictures import placed
from rocmforge.tests.support.programs import run

Arrays = dict[str, npt.NDArray[np.generic]]
JSON = ConstraintSpec(
    "json_schema",
    {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False},
    "schema",
)
PROMPT = "The capital of France is the city of"


class Counted:
    """HIP's functions, counted."""

    def __init__(self, api: HipApi, calls: Counter[str]) -> None:
        self._api = api
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._api, name)

        def counted(*arguments: Any) -> Any:
            self._calls[name] += 1
            return function(*arguments)

        return counted


class Device:
    """A bundle and where it is loaded."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self.bundle = bundle
        self.kind, _, self.arch = device.partition(":")
        self.calls: Counter[str] = Counter()

    def load(self, blocks: int = 64, slots: int | None = None) -> HipProgram:
        """Load it."""
        size = KvSize(blocks, 64, slots)
        if self.kind == "hip":
            api = cast(HipApi, Counted(load_hip(), self.calls))
            return load_hip_program(self.bundle, api, size, report=str)
        from rocmforge.tools.emulator import HipEmulator  # noqa: PLC0415 - AMD's runtime does without

        return load_hip_program(self.bundle, HipEmulator(self.arch), size, nodes=None, report=str)


def logits(device: Device) -> Arrays:
    """Prefill whole and in chunks, decoding, and a batch of three: a prompt, a chunk that continues, a single token."""
    ids = np.random.default_rng(5).integers(0, 320, 40).tolist()
    program = device.load()
    found = {"whole": run(program, [(0, 0, ids)]), "hidden": program.hidden(0, len(ids))}
    chunks = [run(program, [(1, start, ids[start : start + size])]) for start, size in ((0, 7), (7, 20), (27, 9))]
    chunks += [run(program, [(1, position, ids[position : position + 1])]) for position in range(36, 40)]
    found["chunks"] = np.concatenate(chunks)
    run(program, [(2, 0, ids[:10]), (3, 0, ids[:25])])
    found["batch"] = run(program, [(2, 10, ids[10:20]), (4, 0, ids[:16]), (3, 25, ids[25:26])])
    program.close()
    return found


def tokens(device: Device) -> Arrays:
    """Eight greedy tokens of a real prompt, their logits, and a batch of three sequences that go on."""
    prompt = load_tokenizer(device.bundle).encode(PROMPT)
    program = device.load(24)
    found: Arrays = {"greedy": np.array(greedy(program, prompt, 8), np.int32), "last": program.logits(1)}
    run(program, [(1, 0, prompt[:3]), (2, 0, prompt[3:5])])
    found["batch"] = run(program, [(1, 3, prompt[3:4]), (2, 2, prompt[5:6]), (0, 15, prompt[6:7])])
    program.close()
    return found


def golden(device: Device) -> Arrays:
    """Digests of the logits of the golden records' prompts."""
    program = device.load(4)
    prompts = [list(record["prompt"]) for record in device.bundle.manifest.golden]  # type: ignore[call-overload]
    digests = [str(record["logits_sha256"]) for record in record_golden(program, prompts)]
    program.close()
    return {"digests": np.array(digests)}


def sampling(device: Device) -> Arrays:
    """Sixteen rows, each drawn in its own way."""
    random = np.random.default_rng(7)
    mask = random.integers(0, 1 << 32, 10, np.uint32)
    seen, counts = np.arange(40, dtype=np.int32), np.ones(40, np.int32)
    ways = (
        RowSampling(),
        RowSampling(0.8, top_k=5, top_p=0.9, seed=3, counter=1),
        RowSampling(1.2, min_p=0.02, seed=4, counter=2),
        RowSampling(1.0, seed=5, counter=3, mask=mask),
        RowSampling(
            1.0, seed=6, counter=4, repetition_penalty=1.3, presence_penalty=0.2, seen_tokens=seen, seen_counts=counts
        ),
        RowSampling(0.7, typical_p=0.5, seed=7, counter=5),
    )
    batch = Batch(
        token_ids=random.integers(0, 320, 16).astype(np.int32),
        positions=np.arange(16, dtype=np.int32),
        rows=np.zeros(16, np.int32),
        block_table=np.array([[0]], np.int32),
        logits_rows=np.arange(16, dtype=np.int32),
        sampling=[ways[row % len(ways)] for row in range(16)],
    )
    program = device.load(4)
    found: Arrays = {"drawn": program.step(batch), "again": program.step(batch)}
    program.close()
    return found


def engine(device: Device) -> Arrays:
    """Through the engine: speculation on and off, structured output, embeddings, and too few pages for all."""
    tokenizer = load_tokenizer(device.bundle)
    random = np.random.default_rng(2)
    repeated = tuple(np.resize(random.integers(3, 300, 5), 15).tolist())
    found: Arrays = {}
    for drafts, blocks in ((0, 32), (5, 32), (0, 6)):
        requests = [
            GenerationRequest(repeated, 24, SamplingParams(0.0), ignore_eos=True),
            GenerationRequest(repeated[3:], 24, SamplingParams(1.0, top_k=3, seed=4), ignore_eos=True),
            GenerationRequest((5, 6, 7), 24, SamplingParams(1.0, seed=9), ignore_eos=True),
        ]
        limits = EngineLimits(draft_tokens=drafts)
        with serving(device.load(blocks), tokenizer, 64, limits=limits) as running:
            states = [ended(one) for one in [running.submit(request) for request in requests]]
            assert all(state.error is None for state in states), states
            for number, state in enumerate(states):
                found[f"drafts {drafts}, {blocks} blocks, {number}"] = np.array(state.tokens, np.int32)
            stats = running.stats()
            assert (stats.draft_tokens_accepted > 0) == (drafts > 0), stats
            assert (stats.preemptions > 0) == (blocks < 32), stats
            if blocks < 32:
                continue
            written = running.submit(
                GenerationRequest(
                    (5, 6, 7), 40, SamplingParams(1.0, seed=3), constraint=ConstraintCompiler(tokenizer).compile(JSON)
                )
            )
            found[f"drafts {drafts}, structured"] = np.array(ended(written).tokens, np.int32)
            vectors = [one.result(60.0) for one in running.embed([EmbeddingRequest(repeated, "mean")])]
            found[f"drafts {drafts}, embedding"] = np.array(vectors)
    return found


def _of_part(device: Device, name: str, part: Program) -> npt.NDArray[np.generic]:
    """Rows of a part's golden records."""
    probe = probe_in(device.bundle, name)
    records = device.bundle.manifest.parts[name].golden
    given = [probe.checked(device.bundle.path, record) for record in records]
    return np.concatenate([probe.rows(part, one).reshape(-1) for one in given])


def drafting(device: Device) -> Arrays:
    """A hybrid and its own block: the block's rows, and texts that it drafts, equal to those without."""
    tokenizer = load_tokenizer(device.bundle)
    prompts = np.random.default_rng(3).integers(3, 96, (2, 12)).tolist()
    asked = (SamplingParams(0.0), SamplingParams(1.0, top_k=4, seed=2))
    found: Arrays = {}
    for drafts in (0, 3):
        program: Program = device.load(32, 24)
        policy = None
        if drafts:
            block = load_part(device.bundle, "mtp", program, KvSize(32, 64))
            found["block"] = _of_part(device, "mtp", block)
            program, policy = headed(program, block, drafts)
        limits = EngineLimits(draft_tokens=drafts)
        with serving(program, tokenizer, 64, limits=limits, policy=policy) as running:
            requests = [
                GenerationRequest(tuple(ids), 9, sampling, ignore_eos=True)
                for ids, sampling in zip(prompts, asked, strict=True)
            ]
            states = [ended(one) for one in [running.submit(request) for request in requests]]
            stats = running.stats()
        assert all(state.error is None for state in states), states
        assert (stats.draft_tokens_accepted > 4) == (drafts > 0), stats
        found[f"{drafts} drafts"] = np.array([state.tokens for state in states], np.int32)
    assert np.array_equal(found["0 drafts"], found["3 drafts"])
    return found


def seeing(device: Device) -> Arrays:
    """A model with eyes: rows of a picture, and texts behind two pictures that differ."""
    tokenizer, vision = load_tokenizer(device.bundle), vision_of(device.bundle)
    program = device.load(32)
    eyes = load_vision(device.bundle, program, str)
    found: Arrays = {"rows": _of_part(device, "vision", eyes.program)}
    encoder = PictureEncoder(vision)
    encoder.attach(Eyes(eyes))
    side, ids = vision.patch_size * vision.merge, np.random.default_rng(4).integers(3, 96, 9).tolist()
    with serving(program, tokenizer, 64, encoder=encoder) as running:
        for seed in (1, 2):
            pixels = np.random.default_rng(seed).integers(0, 256, (2 * side, 3 * side, 3), np.uint8).tobytes()
            one = placed(Picture(2 * side, 3 * side, pixels), 5, vision)
            text = (*ids[:5], *[0] * 6, *ids[5:])
            request = GenerationRequest(text, 5, SamplingParams(0.0), ignore_eos=True, logprobs=2, pictures=(one,))
            state = ended(running.submit(request))
            assert state.error is None, state
            found[f"picture {seed}"] = np.array(state.tokens, np.int32)
            likely = [[first.logprob, *(other for _, other in first.top)] for first in state.logprobs or ()]
            found[f"picture {seed}, log-probabilities"] = np.array(likely)
    first, second = (found[f"picture {seed}, log-probabilities"] for seed in (1, 2))
    assert first.size
    assert not np.array_equal(first, second)
    return found


PARTS: Mapping[str, Callable[[Device], Arrays]] = {
    part.__name__: part for part in (logits, tokens, golden, sampling, engine, drafting, seeing)
}


def main() -> None:
    """Run the parts asked for."""
    path, output, device, *parts = sys.argv[1:]
    with open_bundle(Path(path)) as bundle:
        on = Device(bundle, device)
        found = {f"{part}: {name}": array for part in parts for name, array in PARTS[part](on).items()}
    np.savez(output, **found)  # type: ignore[arg-type]
    print(json.dumps(on.calls))


if __name__ == "__main__":
    main()
