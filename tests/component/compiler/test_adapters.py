"""Bundles with adapters beside their weights, on the host and on emulated GPUs: against what the graph means, against a
model with the adapter merged, and to the bit whatever stands beside a sequence in its step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.changes import Changes
from rocmforge.compiler.kept_adapters import parse_adapter
from rocmforge.compiler.lora import LoraFile
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.ops.lora_segments import SCALES
from rocmforge.compiler.progress import Silent
from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.device.host import load_host_program
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tests.support import emulated_programs
from rocmforge.tests.support.adapters import DOWN, EMBEDDING, HEAD, OUT, UP, K, Q, pairs, write_gguf_adapter
from rocmforge.tests.support.programs import LEVELS, check_outputs_alone, compiled, relative_tolerance, run
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.fixtures import write_model

IDS = np.random.default_rng(5).integers(0, 320, 12).tolist()
CHOICES = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, -2.0]]
"""Of three adapters: each alone, none, two at once."""
NAMES = ((Q, DOWN, HEAD), (Q, K, UP, OUT, EMBEDDING), (DOWN, EMBEDDING))


class Made:
    """A model, its adapters, and its bundle with and without them."""

    def __init__(self, folder: Path, quantization: str, cache: BuildCache) -> None:
        self.quantization = quantization
        self.path = write_model(folder / "m.gguf", quantization=quantization, tie=False)
        self.files = [
            write_gguf_adapter(folder / f"{index}.gguf", pairs(index, names, 4 + 3 * index, 0.2))
            for index, names in enumerate(NAMES)
        ]
        self.changes = Changes(adapters=tuple(parse_adapter(f"a{i}={file}") for i, file in enumerate(self.files)))
        archs = ("host",) if quantization == "F32" else ("host", "gfx1100")
        levels = ("x86_64_v3", "portable") if quantization == "F32" else LEVELS  # those that it is run at
        self.bundle = compiled(self.path, cache, folder / "kept.rfb", self.changes, archs, levels)
        self.plain = compiled(self.path, cache, folder / "plain.rfb", levels=("x86_64_v3", "portable"))

    def meaning(self, scales: list[float]) -> np.ndarray:
        """float64[T, vocab] of the prompt."""
        model = read_model(CompileOptions(self.path, self.path, changes=self.changes), Silent())
        made = {name: array.astype(np.float64) for name, array in model.adapters.made.items()}
        numbers = {**Meaning.of(self.path, len(IDS)).numbers, **made, SCALES: np.array(scales)}
        return Interpreter(model.graph, numbers, IDS).run()


QUANTIZATIONS = ("F32", "Q4_1")


@pytest.fixture(scope="module")
def models(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Made]]:
    found = {kind: Made(tmp_path_factory.mktemp("adapters"), kind, build_cache) for kind in QUANTIZATIONS}
    yield found
    for made in found.values():
        made.bundle.close()
        made.plain.close()


@pytest.fixture(params=QUANTIZATIONS)
def made(request: pytest.FixtureRequest, models: dict[str, Made]) -> Made:
    return models[request.param]


def host(bundle: Bundle, level: str | None = None, threads: int = 2) -> Program:
    return load_host_program(bundle, 64, threads, level)


PLACES = (*LEVELS, "one-thread", "gfx1100")


def load(bundle: Bundle, place: str) -> Program:
    if place == "gfx1100":
        return emulated_programs.load(bundle, place)
    return host(bundle, threads=1) if place == "one-thread" else host(bundle, place)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected))


@pytest.mark.parametrize(
    ("made", "place"),
    [("F32", "x86_64_v3"), ("F32", "one-thread"), *(("Q4_1", place) for place in PLACES)],
    indirect=["made"],
)
def test_a_batch_of_three_adapters_and_none(made: Made, place: str) -> None:
    program = load(made.bundle, place)
    try:
        alone = [run(program, [(0, 0, IDS)], [scales]) for scales in CHOICES]
        chunks = [(slot, 0, IDS) for slot in range(len(CHOICES))]
        together = run(program, chunks, CHOICES).reshape(len(CHOICES), len(IDS), -1)
        # The same in chunks, each beside others' that are at another place.
        parts: dict[int, list[np.ndarray]] = {1: [], 3: []}
        for start, end in ((0, 4), (4, 5), (5, 12)):
            mixed = [(3, start, IDS[start:end]), (6, 0, IDS[: 12 - end + 1]), (1, start, IDS[start:end])]
            found = run(program, mixed, [CHOICES[3], CHOICES[0], CHOICES[1]])
            parts[3].append(found[: end - start])
            parts[1].append(found[start - end :])
    finally:
        program.close()
    for scales, one, other in zip(CHOICES, alone, together, strict=True):
        assert one.tobytes() == other.tobytes(), scales
        off = error(one, made.meaning(scales))
        assert off < relative_tolerance(made.quantization), (scales, off)
    for index, pieces in parts.items():
        assert np.concatenate(pieces).tobytes() == alone[index].tobytes()
    assert min(error(one, alone[1]) for one in (alone[0], *alone[2:])) > 0.1


@pytest.mark.parametrize("place", ["x86_64_v3", "portable"])
def test_without_an_adapter_the_bits_are_those_of_the_plain_bundle(made: Made, place: str) -> None:
    found = []
    for bundle, scales in ((made.plain, None), (made.bundle, None), (made.bundle, [CHOICES[1]])):
        program = host(bundle, place)
        found.append(run(program, [(0, 0, IDS)], scales).tobytes())
        program.close()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("place", ["x86_64_v3", "portable"])
def test_outputs_of_some_tokens_alone(made: Made, place: str) -> None:
    program = host(made.bundle, place)
    for scales in CHOICES:
        check_outputs_alone(program, [*IDS, *IDS], [scales])
    program.close()


def test_an_adapter_is_what_it_is_merged(made: Made, build_cache: BuildCache, tmp_path: Path) -> None:
    """Weights that were Q4_1 are F16 where the adapter is merged, so their products are those of other activations."""
    changes = Changes((LoraFile(made.files[0]),))
    with compiled(made.path, build_cache, tmp_path / "merged.rfb", changes, levels=("portable",)) as bundle:
        merged, kept = host(bundle), host(made.bundle)
        expected, found = run(merged, [(0, 0, IDS)]), run(kept, [(0, 0, IDS)], [CHOICES[0]])
        merged.close()
        kept.close()
    assert error(found, expected) < relative_tolerance(made.quantization)


def test_a_bundle_without_adapters_says_nothing_of_them(made: Made) -> None:
    assert made.plain.layout.adapters == ()
    assert b"adapter" not in encode_layout(made.plain.layout)
    assert not any("lora" in name for name in made.plain.manifest.files if not name.endswith(".h"))
    assert "adapters" not in made.plain.manifest.options
    assert made.bundle.layout.adapters == ("a0", "a1", "a2")


@pytest.mark.parametrize("names", [("a", "a"), ("a:b",), ("latest",), ("",)])
def test_a_layout_with_names_that_are_none(made: Made, names: tuple[str, ...]) -> None:
    data = encode_layout(made.bundle.layout)
    packed = b"\xa8adapters\x93\xa2a0\xa2a1\xa2a2"
    assert data.count(packed) == 1
    bad = b"\xa8adapters" + bytes([0x90 + len(names)]) + b"".join(bytes([0xA0 + len(n)]) + n.encode() for n in names)
    with pytest.raises(BundleError, match=r"adapters\[[01]\]: expected"):
        decode_layout(Path("layout"), data.replace(packed, bad), made.bundle.layout.weights_bytes)
