"""Drafts behind pictures: of the text, and of a block that the model brings, beside its eyes in one bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.parts import load_part
from rocmforge.runtime.engine import draft_loading
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.eyes import Eyes
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.lifecycle import EngineMetrics, NoMetrics
from rocmforge.runtime.engine.loading import EngineOptions, load_engine, load_tokenizer
from rocmforge.runtime.engine.picture_encoder import PictureEncoder
from rocmforge.runtime.pictures.encode import load_vision, vision_of
from rocmforge.runtime.pictures.patches import Picture
from rocmforge.runtime.verify import verify
from rocmforge.tests.support.drafting import Eager, headed
from rocmforge.tests.support.engine_harness import ended, load, serving
from rocmforge.tests.support.pictures import placed
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.draft_models import agree, write_drafting
from rocmforge.tools.generate.vision_models import write_mmproj
from rocmforge.tools.generate.vision_oracle.pictures import compile_seeing

HOST = DeviceOptions("host", 1)
CONTEXT = 192
IDS = tuple(int(one) for one in np.random.default_rng(6).integers(3, 96, 60))


@pytest.fixture(scope="module")
def bundle(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A hybrid with eyes, and a block that drafts what the model says itself."""
    folder: Path = tmp_path_factory.mktemp("both")
    path = agree(write_drafting(folder / "model.gguf", "qwen35", context=CONTEXT))
    goal = folder / "model.rfb"
    with building_levels(("portable",)):
        compile_seeing(path, write_mmproj(folder / "eyes.gguf", "qwen3vl_merger"), goal, ("host",), build_cache)
    with open_bundle(goal) as opened:
        yield opened


def answers(bundle: Bundle, drafts: int, source: str) -> tuple[list[GenerationState], int]:
    """To requests with a picture, with two, and with none; and how many drafts were accepted."""
    vision = vision_of(bundle)
    side = vision.patch_size * vision.merge

    def picture(seed: int) -> Picture:
        size = 2 * side, 3 * side
        return Picture(*size, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8).tobytes())

    program = load(bundle, 96, 1, slots=40)
    eyes = load_vision(bundle, program, str)
    encoder = PictureEncoder(vision)
    encoder.attach(Eyes(eyes))
    policy: Eager | None = None
    served = program
    if source == "mtp":
        block = load_part(bundle, "mtp", program, KvSize(96, CONTEXT))
        served, policy = headed(program, block, drafts)  # type: ignore[assignment]
    found = []
    limits = EngineLimits(draft_tokens=drafts)
    with serving(served, load_tokenizer(bundle), CONTEXT, encoder=encoder, limits=limits, policy=policy) as engine:
        running = []
        for number, sampling in enumerate((SamplingParams(0.0), SamplingParams(1.0, top_k=3, seed=4)) * 3):
            text = (*IDS[:5], *[0] * 6, *IDS[5:14], *[0] * 6, *IDS[14:20])
            count = number % 3
            pictures = tuple(placed(picture(number + at), first, vision) for at, first in enumerate((5, 20)[:count]))
            ids = text if count == 2 else text[:20] if count else IDS
            one = GenerationRequest(ids, 40, sampling, ignore_eos=True, logprobs=2, pictures=pictures)
            running.append(engine.submit(one))
        for generation in running:
            state = ended(generation)
            assert state.error is None
            found.append(replace(state, request_id=0, cached_tokens=0))
        return found, engine.stats().draft_tokens_accepted


def test_pictures_and_drafts(bundle: Bundle) -> None:
    """The same tokens and log-probabilities, to the bit; the block knows the states after a picture's rows."""
    plain, none = answers(bundle, 0, "lookup")
    for source, least in (("lookup", 1), ("mtp", 60)):
        found, accepted = answers(bundle, 4, source)
        assert found == plain
        assert accepted >= least
    assert none == 0


def test_a_bundle_with_both_parts_is_verified(bundle: Bundle) -> None:
    told: list[str] = []
    verify(bundle.path, HOST, told.append)
    replayed = [line for line in told if line.endswith("equal to the bit")]
    assert [line.split(":")[0] for line in replayed] == ["host portable", "mtp host portable", "vision host portable"]


def test_F72_no_room_for_the_block_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DeviceError("12 MiB short")

    options = EngineOptions(DeviceOptions("host", 2), CONTEXT, 16 * CONTEXT)
    tokenizer, before = load_tokenizer(bundle), set(os.listdir("/proc/self/task"))
    monkeypatch.setattr(draft_loading, "load_part", full)
    with pytest.raises(DeviceError, match=r"^12 MiB short$"):
        load_engine(bundle, options, tokenizer, cast(EngineMetrics, NoMetrics()))
    assert set(os.listdir("/proc/self/task")) <= before  # each program has one thread beside ours
