"""Beside peers: the probe runs here, and a tiny model is measured without any peer."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime import benchmark
from rocmforge.runtime.benchmark import token_work
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.bench.peers import __main__ as command
from rocmforge.tools.bench.peers import machine
from rocmforge.tools.bench.peers.page import write_page
from rocmforge.tools.bench.peers.samples import BATCHES, BUSY, CONTEXTS, PREFILL, START, after, together
from rocmforge.tools.generate.fixtures import write_model

FIGURES = {
    "speed": [PREFILL, *map(after, CONTEXTS)],
    "batches": list(map(together, BATCHES)),
    "start": [START],
    "busy": [BUSY],
}


@pytest.fixture(scope="module")
def paths(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("peers")
    model = write_model(folder / "model.gguf", context_length=1024)
    with compiled(model, build_cache, folder / "model.rfb", levels=("portable",)) as made:
        return model, made.path


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SAMPLE_SECONDS", 0.002)
    monkeypatch.setattr(benchmark, "PROBE_BYTES", 1 << 20)
    monkeypatch.setattr(benchmark, "_probe", [])
    monkeypatch.setattr(command, "probe", lambda threads: machine.probe(threads, 0.005, 1 << 20))


def test_the_probe() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    found = machine.probe(1, 0.01, 1 << 20)
    assert found.read > 0
    for value, needed in ((found.float32, {"avx2", "fma"}), (found.int8, {"avx2"}), (found.amx, {"amx_int8"})):
        assert (value is not None and value > 0) == (needed <= flags)
    with pytest.raises(MemoryError):
        machine.probe(0, 0.01, 1 << 20)


@pytest.mark.parametrize("part", list(FIGURES))
def test_a_tiny_model_without_peers(part: str, paths: tuple[Path, Path], tmp_path: Path) -> None:
    sample = command.take_sample("smollm2-q4_1", part, 1, "abc", paths, [])
    assert list(sample.figures) == FIGURES[part]
    assert all(value > 0 for found in sample.figures.values() for value in found.values())
    with open_bundle(paths[1]) as opened:
        assert (sample.token_bytes, sample.token_operations) == token_work(opened, opened.layout)
    # A layer of attention (64 x 128, 64 x 64), gate, up and down (64 x 128), of the last one queries, keys and values,
    # and 4 norms. What is done for the last token of a prompt, the rest of the last layer and the logits, is not in it.
    assert sample.token_operations == 2 * (64 * 128 + 64 * 64 + 3 * 64 * 128) + 2 * 64 * 128 + 2 * 4 * 64
    assert 0 <= sample.others <= 1
    write_page([sample], tmp_path)
    assert (tmp_path / "peers.md").is_file()
