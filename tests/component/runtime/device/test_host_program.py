"""The host program against the float32 reference, and its bits against themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.processors import Processors
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device import load, proof
from rocmforge.runtime.device.golden import record_golden
from rocmforge.runtime.device.host import HostProgram, load_host_program
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.programs import FLOAT_TYPES, LEVELS, compiled, relative_tolerance, run
from rocmforge.tests.support.systems import leave_home
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return [int(token) for token in np.random.default_rng(3).integers(0, 49152, 60)]


def test_logits_are_bitwise_the_same_alone_batched_chunked_and_threaded(smollm2: Bundle, prompt: list[int]) -> None:
    alone = load_host_program(smollm2, 64, 1)
    threaded = load_host_program(smollm2, 64, 2)
    expected = run(alone, [(0, 0, prompt)])
    assert np.array_equal(run(threaded, [(0, 0, prompt)]), expected)
    for pieces in ((1, 59), (7, 20, 33), (16, 16, 28), tuple([1] * 60)):
        start, parts = 0, []
        for size in pieces:
            parts.append(run(threaded, [(1, start, prompt[start : start + size])]))
            start += size
        assert np.array_equal(np.concatenate(parts), expected), pieces
    others = [(slot, 0, [slot * 31 + i for i in range(slot)]) for slot in range(1, 8)]
    batched = run(threaded, [*others[:3], (0, 0, prompt[:30]), *others[3:]])
    assert np.array_equal(batched[6:36], expected[:30])
    for program in (alone, threaded):
        program.close()


def test_hidden_states_are_bitwise_the_same_alone_batched_and_chunked(smollm2: Bundle, prompt: list[int]) -> None:
    program = load_host_program(smollm2, 64, 2)
    run(program, [(0, 0, prompt)])
    expected = program.hidden(0, len(prompt))
    assert len(np.unique(expected)) > expected.size // 2
    assert np.array_equal(program.hidden(17, 5), expected[17:22])
    start, parts = 0, []
    for size in (1, 20, 33, 6):
        run(program, [(1, start, prompt[start : start + size])])
        parts.append(program.hidden(0, size))
        start += size
    assert np.array_equal(np.concatenate(parts), expected)
    run(program, [(2, 0, [5, 6, 7]), (3, 0, prompt[:30]), (4, 0, [8])])
    assert np.array_equal(program.hidden(3, 30), expected[:30])
    program.close()


def test_v3_and_v4_give_the_same_bits(smollm2: Bundle, prompt: list[int]) -> None:
    results = []
    for level in ("x86_64_v4", "x86_64_v3"):
        program = load_host_program(smollm2, 64, 1, level)
        results.append(run(program, [(0, 0, prompt[:20])]))
        program.close()
    assert np.array_equal(results[0], results[1])


# A type of each family of code at all levels; others at the best and at the last: each kernel of each type is run alone
# at each level by `test_products_host`, and the level between gives the bits of the best (above).
FAMILIES = ("F16", "Q8_0", "Q4_1", "Q6_K")
TYPES = (*FLOAT_TYPES, "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("quantization", TYPES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_logits_against_the_float32_reference(
    architecture: str, quantization: str, tmp_path: Path, build_cache: BuildCache
) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, architecture=architecture, quantization=quantization)
    ids = np.random.default_rng(5).integers(0, 320, 40).tolist()
    reference = ReferenceModel(path)
    expected, hidden = reference.forward(ids), reference.hidden(ids)
    levels = LEVELS if quantization in FAMILIES else (LEVELS[0], LEVELS[-1])
    bundle = compiled(path, build_cache, levels=levels)
    for level in levels:
        program = load_host_program(bundle, 64, 1, level)
        found, states = run(program, [(0, 0, ids)]), program.hidden(0, len(ids))
        program.close()
        assert np.isfinite(found).all()
        error = np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected)
        assert error < relative_tolerance(quantization), (level, error)
        # The same bound: the logits' without the output matrix's share.
        error = np.sqrt(np.mean((states - hidden) ** 2) / np.mean(hidden**2))
        assert error < relative_tolerance(quantization), (level, error)
    bundle.close()


def test_threads_change_between_steps(smollm2: Bundle, prompt: list[int]) -> None:
    """Other threads give the same bits; the first launches alone leave the next step as it is."""
    program = load_host_program(smollm2, 64, 1)
    expected = run(program, [(0, 0, prompt)])
    for count in (3, 2, 2, 1):
        program.set_threads(count)
        assert program.threads == count
        program.step(Solo(program.layout).batch(prompt[:5], 0), end=40)
        assert np.array_equal(run(program, [(0, 0, prompt)]), expected)
    program.close()


def test_the_first_step_proves_the_bundle(smollm2: Bundle, prompt: list[int]) -> None:
    """Bits are those of a program that was proven before, and only the first step has one sequence more."""
    programs = [
        load.load_program(smollm2, DeviceOptions("host", 2, prove_with_first_step=later), KvSize(64, 512))
        for later in (False, True)
    ]
    for chunks in ([(1, 0, prompt[:9]), (0, 0, prompt[:40])], [(1, 9, prompt[9:10]), (0, 40, prompt[40:])]):
        before, later = (run(program, chunks) for program in programs)
        assert np.array_equal(before, later)
    for program in programs:
        program.close()


def test_a_bundle_that_is_not_proven_gives_nothing(smollm2: Bundle, prompt: list[int]) -> None:
    program = load_host_program(smollm2, 64, 2)
    *_, record = record_golden(program, [[5, 3, 9]])
    right = proof.shortest_proof(program, smollm2.path, [record], 0.0)
    wrong = [{**record, "top": [[0, 99.0]]}]
    program.prove_with_first_step(proof.shortest_proof(program, smollm2.path, wrong, 1.0))
    for _ in range(2):
        with pytest.raises(
            BundleError,
            match=r"token 0: expected 99\.0000, found .*: weights, code",
        ):
            run(program, [(0, 0, prompt[:8])])
    program.prove_with_first_step(right)
    assert np.isfinite(run(program, [(0, 0, prompt[:8])])).all()
    program.close()


@pytest.mark.parametrize(
    ("cores", "most", "home"),
    [(((0,), (1,)), 2, True), (((0, 1),), 2, True), (((0, 1),), 2, False), (((0,),), 1, False)],
)
def test_threads_are_chosen_where_none_are_asked_for(
    smollm2: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cores: tuple[tuple[int, ...], ...],
    most: int,
    home: bool,
) -> None:
    """Whichever is faster here: it is told, and has the answer that the bundle knows."""
    if home:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    else:
        leave_home(monkeypatch)
    monkeypatch.setattr(load, "read_processors", lambda: Processors(cores))
    caplog.set_level("INFO")
    program = load.load_program(smollm2, DeviceOptions("host", None), KvSize(64, 512))
    assert isinstance(program, HostProgram)
    assert len(cores) <= program.threads <= most
    assert f"host: {program.threads} thread" in caplog.text
    program.close()
