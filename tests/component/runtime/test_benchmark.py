"""`rfc bench`: what it measures adds up, and what it cannot do it says. No speed is asserted."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import UsageError
from rocmforge.cli.main import main
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime import benchmark
from rocmforge.runtime.benchmark import BenchOptions, measure
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="module")
def bundle(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    model = write_model(folder / "model.gguf")
    with compiled(model, build_cache, folder / "model.rfb", levels=("portable",)) as made:
        return made.path


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SAMPLE_SECONDS", 0.002)
    monkeypatch.setattr(benchmark, "PROBE_BYTES", 1 << 20)
    monkeypatch.setattr(benchmark, "_probe", [])


def test_figures_and_kernels(bundle: Path) -> None:
    options = BenchOptions(bundle, DeviceOptions("host"), rounds=2, kernels=True)
    found = measure(options, lambda _: None)
    with open_bundle(bundle) as opened:
        layout, rows = opened.layout, opened.manifest.kernels
    assert (found.weight_bytes, found.arena_bytes) == (layout.weights_bytes, layout.arena_bytes())
    assert [(one.what, one.tokens, one.sequences) for one in found.figures] == [
        ("prefill", 128, 1),  # a prompt of 512 has no room, nor a context
        *(("decode", 4, count) for count in (1, 2, 4, 8, 16)),
    ]
    assert all(0 < one.lowest <= one.median <= one.highest for one in found.figures)
    read = sum(int(str(row["weight_bytes_per_step"])) for row in rows)
    alone = found.figures[1]
    assert alone.bandwidth_share == pytest.approx(alone.median * read / found.bandwidth)
    assert [one.bandwidth_share for one in found.figures if one is not alone] == [None] * 5
    for step, count in (("decode", 1), ("prefill", 128)):
        times = [one for one in found.kernels if one.step == step]
        assert sum(one.launches for one in times) == len(layout.launches)
        assert math.isclose(sum(one.share for one in times), 1)
        assert times == sorted(times, key=lambda one: -one.milliseconds)
        # 2 layers of attention (64 x 128, 64 x 64), gate, up and down (64 x 128), and one row of 320 logits of 64. What
        # follows the second layer's queries, keys and values is done for one token alone.
        all_tokens, one_token = 2 * 2 * 64 * 128 + 2 * (64 * 64 + 3 * 64 * 128), 2 * (64 * 64 + 3 * 64 * 128)
        done = sum(one.gigaoperations * one.milliseconds * 1e6 for one in times if not one.kernel.startswith("norm"))
        assert done == pytest.approx(all_tokens * count + one_token + 2 * 320 * 64)


@pytest.mark.parametrize(
    "options, line",
    [
        ({"prompts": (400,)}, "--prompt, --context: expected at most 256 tokens in all, as the bundle has room for"),
        ({"contexts": (250,)}, "found 266"),
        ({"batches": (65,)}, "--batch: expected at most 64, as a step holds, found 65"),
    ],
)
def test_more_than_there_is_room_for(options: dict[str, Any], line: str, bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure(BenchOptions(bundle, DeviceOptions("host"), **options), lambda _: None)
    assert line in str(caught.value)


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    arguments = [
        "bench",
        str(bundle),
        "--device",
        "host",
        "--rounds",
        "1",
        "--prompt",
        "16",
        "--batch",
        "2",
        "--profile",
    ]
    shown = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    assert {"prefill", "decode", "matmul"} <= set(shown.stdout.replace("_", " ").split())
    found = CliRunner().invoke(main, [*arguments, "--json", "--svg", str(tmp_path / "b.svg")], catch_exceptions=False)
    document = json.loads(found.stdout)
    assert [(one["what"], one["tokens"]) for one in document["figures"]] == [
        ("prefill", 16),
        ("decode", 4),
        ("decode", 4),
    ]
    assert {one["step"] for one in document["kernels"]} == {"decode", "prefill"}
    assert ElementTree.parse(tmp_path / "b.svg").getroot().tag.endswith("svg")
