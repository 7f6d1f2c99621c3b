"""Beside peers: what their programs print is read rightly, and the table says what the samples say."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import UsageError
from rocmforge.tools.bench.peers import samples as taking
from rocmforge.tools.bench.peers.builds import BENCH, RECIPES, Peer, given_peer, names_here
from rocmforge.tools.bench.peers.machine import machine_kind
from rocmforge.tools.bench.peers.page import by_model, groups, number, peaks_line, slug, table, write_page
from rocmforge.tools.bench.peers.results import Sample, cells, counted, read_samples, write_samples
from rocmforge.tools.bench.peers.samples import PREFILL, START, parse_batched

# As llama-batched-bench 11434.0.0 printed it on an AMD EPYC.
BATCHED = """
llama_batched_bench: n_kv_max = 2048, n_batch = 2048, n_ubatch = 512, n_threads = 2, n_threads_batch = 2

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|     4 |      8 |    1 |     12 |    0.361 |    11.09 |    1.696 |     4.72 |    2.056 |     5.84 |
|   512 |      8 |    2 |   1032 |    0.618 |    12.94 |    2.122 |     7.54 |    2.740 |     8.76 |

|    PP |     TG |    B | broken
"""
MACHINE = "AMD EPYC, cpu family 25, model 17, AVX-512 VNNI, 2 CPUs"
PEAKS = {
    "1": {"read": 20.0, "float32": 110.0, "int8": 440.0, "amx": None},
    "2": {"read": 40.0, "float32": 220.0, "int8": 880.0, "amx": None},
}
SAMPLE = Sample(
    MACHINE,
    "abc1234",
    "llama-1.1b-q4_0",
    "speed",
    2,
    "2026-11-23T21:00:00Z",
    0.01,
    600_000_000,
    2_000_000_000,
    PEAKS,
    {
        PREFILL: {"rocmforge": 220.0, "llama.cpp": 110.0, "ik_llama.cpp": 200.0},
        "decode after 4": {"rocmforge": 50.0, "llama.cpp": 40.0},
        START: {"rocmforge": 0.6, "llama.cpp": 0.3, "ik_llama.cpp": 1.2},
    },
)


def test_a_table_of_batches() -> None:
    assert parse_batched(BATCHED) == {(4, 1): (11.09, 4.72), (512, 2): (12.94, 7.54)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor : 0\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R)   Platinum\n"
            "flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\nprocessor : 1\nmodel : 7\n",
            "Intel Xeon Platinum, cpu family 6, model 143, AMX, 2 CPUs",
        ),
        ("model name\t: AMD EPYC\nflags : avx2 avx512f avx512_vnni", "AMD EPYC, AVX-512 VNNI, 2 CPUs"),
        ("model name\t: Old\nflags : avx2 sse", "Old, AVX2, 2 CPUs"),
    ],
)
def test_kinds_of_machines(text: str, expected: str) -> None:
    assert machine_kind(text, 2) == expected


def test_amx_gives_a_peer_more() -> None:
    assert names_here("flags : avx2 amx_int8") == list(RECIPES)
    assert names_here("flags : avx2 amx_int8x") == ["llama.cpp", "ik_llama.cpp"]
    # What takes AMX away stands behind what gives it, and not where cmake would put it before.
    options = RECIPES["llama.cpp"].options
    assert "-DGGML_NATIVE=OFF" in options
    assert "-DCMAKE_C_FLAGS=-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16" in options


def test_cells_have_ratios_of_medians_and_shares() -> None:
    slow = replace(SAMPLE, figures={PREFILL: {"rocmforge": 100.0, "llama.cpp": 300.0, "ik_llama.cpp": 100.0}})
    fast = replace(SAMPLE, figures={PREFILL: {"rocmforge": 300.0, "llama.cpp": 90.0, "ik_llama.cpp": 210.0}})
    prefill, decode, start = cells([SAMPLE, slow, fast])
    assert prefill.medians == {"rocmforge": 220, "llama.cpp": 110, "ik_llama.cpp": 200}
    assert prefill.ratio == pytest.approx(1.1)
    assert prefill.rounds == 3
    assert prefill.share == pytest.approx(220 * 2 / 880)
    assert (decode.ratio, decode.rounds) == (1.25, 1)
    assert decode.share == pytest.approx(50 * 0.6 / 40)
    assert (start.ratio, start.share) == (2.0, None)  # seconds: by the quicker's


def test_a_row_without_peers_has_no_ratio() -> None:
    [cell] = cells([replace(SAMPLE, figures={PREFILL: {"rocmforge": 1.0}})])
    assert math.isnan(cell.ratio)
    assert "| 1.1B Q4_0 | prefill 512 | 1.00 |  |" in table({"llama-1.1b-q4_0": [cell]})


def test_busy_rounds_and_older_versions_do_not_count() -> None:
    old = replace(SAMPLE, version="old", at="2026-11-22T21:00:00Z")
    other = replace(old, part="batches")
    busy = replace(SAMPLE, version="later", others=0.2, at="2026-11-24T21:00:00Z")
    assert counted([old, other, SAMPLE, busy]) == [other, SAMPLE]


def test_samples_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    assert read_samples(path) == []
    write_samples(path, [SAMPLE, replace(SAMPLE, others=1 / 3)])
    assert read_samples(path) == [SAMPLE, replace(SAMPLE, others=0.3333)]
    assert len(path.read_text().splitlines()) == 4


def test_a_section_of_each_machine(tmp_path: Path) -> None:
    other = replace(SAMPLE, machine="Intel, AMX, 2 CPUs", peaks={"2": PEAKS["2"] | {"amx": 12_800.0}})
    write_page([SAMPLE, other, replace(SAMPLE, threads=1)], tmp_path)
    text = (tmp_path / "peers.md").read_text("utf-8")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [f"## {MACHINE}, 2 threads", f"## {MACHINE}, 1 thread", "## Intel, AMX, 2 CPUs, 2 threads"]
    assert "| 1.1B Q4_0 | prefill 512 | 220 | 110 | 200 | 1.10 | 0.50 | 1 |" in text
    assert "| 1.1B Q4_0 | decode after 4 | 50.0 | 40.0 | - | 1.25 | 0.75 | 1 |" in text
    assert "AMX 12,800 GOPS" in text
    for title in titles:
        picture = f"peers-{slug(title)}.svg"
        assert f"({picture})" in text
        assert ElementTree.parse(tmp_path / picture).getroot().tag.endswith("svg")
    assert list(groups([SAMPLE])) == [(MACHINE, 2)]
    assert [name for name, found in by_model([SAMPLE]).items() if found] == ["llama-1.1b-q4_0"]
    assert "with 1: reads 20.0 GB/s, float32 110 GFLOPS, int8 440 GOPS, AMX - GOPS" in peaks_line([SAMPLE])


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "-"), (math.nan, "-"), (1234.5, "1,234"), (99.94, "99.9"), (1.234, "1.23")]
)
def test_numbers(value: float | None, expected: str) -> None:
    assert number(value) == expected


def fake(folder: Path, bench: str, batched: str) -> Peer:
    """A peer whose programs are scripts."""
    for name, body in zip(BENCH, (bench, batched), strict=True):
        (folder / name).write_text(f"#!{sys.executable} -IS\nimport sys\n{body}\n")
        (folder / name).chmod(0o755)
    return given_peer("llama.cpp", [str(folder), "--more"])


def test_a_peer_is_run(tmp_path: Path) -> None:
    row = 'print(f"| {pp} | 32 | 1 | 9 | 1 | {pp}.5 | 1 | {pp}.25 | 1 | 1 |")'
    peer = fake(tmp_path, "", f'assert sys.argv[-1] == "--more"\nfor pp in (4, 512): {row}')
    assert taking.peer_speed(peer, tmp_path / "m.gguf", 2) == {
        "decode after 4": 4.25,
        "decode after 512": 512.25,
        PREFILL: 512.5,
    }


def test_a_peer_that_crashes_in_prompts_decodes_still(tmp_path: Path) -> None:
    crash = "import os; os.abort()"
    peer = fake(tmp_path, "print('[{\"avg_ts\": 17.5}]')", crash)
    assert taking.peer_speed(peer, tmp_path / "m.gguf", 2) == {"decode after 4": 17.5}
    assert taking.peer_batches(peer, tmp_path / "m.gguf", 2) == {}
    assert taking.peer_start(peer, tmp_path / "m.gguf", 2)[START] > 0
    assert taking.peer_start(fake(tmp_path, crash, crash), tmp_path / "m.gguf", 2) == {}


def test_a_peer_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "_TIMEOUT_SECONDS", 0.3)
    row = "| 4 | 32 | 2 | 9 | 1 | 8 | 1 | 9 | 1 | 1 |"
    peer = fake(tmp_path, "", f'print("{row}", flush=True)\nimport time; time.sleep(30)')
    assert taking.peer_batches(peer, tmp_path / "m.gguf", 2) in ({"2 sequences decode": 9.0}, {})


def test_what_is_no_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected llama-bench in .*, found none"):
        given_peer("llama.cpp", [str(tmp_path)])
    with pytest.raises(UsageError, match="expected a name that begins with llama"):
        given_peer("vllm", [str(tmp_path)])
    assert Peer("llama.cpp with AMX, old", tmp_path).recipe is RECIPES["llama.cpp with AMX"]
