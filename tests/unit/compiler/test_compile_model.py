"""A whole compile, with no compiler in it: which stages are told, and what goes where in the bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from rocmforge import __version__
from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import GgufError, UsageError
from rocmforge.artifacts.layout import Layout
from rocmforge.artifacts.manifest import Manifest
from rocmforge.artifacts.manifest_entries import PartFacts
from rocmforge.compiler import compile as compile_module
from rocmforge.compiler import model as model_module
from rocmforge.compiler import stages
from rocmforge.compiler.build import CodeObject
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.host_toolchain import HostToolchain
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.render import Source, kernel_headers
from rocmforge.compiler.target import Target
from rocmforge.compiler.toolchain import Toolchain
from rocmforge.compiler.tuning import Tuning
from rocmforge.tools.generate.fixtures import write_model


class Told:
    """Notes what a compile says."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def stage(self, name: str, total: int = 0, unit: str = "") -> None:
        self.events.append((name, total, unit))

    def advance(self, done: int) -> None:
        self.events.append((done,))

    def note(self, text: str) -> None:
        self.events.append(("note", text))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """In the place of compilers: what they were given."""
    given: list[tuple[object, ...]] = []
    first: dict[str, str] = {}  # of each target's kernels

    def find(name: str, target: Target) -> Toolchain:
        return HostToolchain(f"{name}-{target.arch}", ("cc",), ("ld",), f"version of {target.arch}", ())

    def build(
        sources: tuple[Source, ...],
        target: Target,
        toolchain: Toolchain,
        cache: BuildCache,
        progress: Callable[[int, int], None],
        jobs: int,
    ) -> tuple[CodeObject, ...]:
        first[target.arch] = sources[0].name.partition(".")[0]
        total = len(sources) * len(target.variants)
        given.append((target.arch, toolchain.name, total, jobs, cache.root.name))
        for done in range(1, total + 1):
            progress(done, total)
        return tuple(CodeObject(variant, variant.file.encode()) for variant in target.variants)

    def resources(arch: str, code: bytes) -> dict[str, dict[str, object]]:
        return {"no kernel of ours": {}, first[arch]: {"arch": arch, "code": code.decode()}}

    monkeypatch.setattr(compile_module, "find_toolchain", find)
    monkeypatch.setattr(stages, "build_variants", build)
    monkeypatch.setattr(compile_module, "gpu_resources", resources)
    return given


Golden = list[tuple[Layout, str, bytes, Sequence[Sequence[int]]]]


def compiled(
    tmp_path: Path, told: Told, golden: Golden, record: dict[str, object] | None = None, **options: Any
) -> tuple[Manifest, Path]:
    model = write_model(tmp_path / "model.gguf", num_layers=1)

    def make(
        layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]], part: PartFacts | None = None
    ) -> list[dict[str, object]]:
        assert part is None
        golden.append((layout, weights.name, code, prompts))
        return [record or {"prompt": list(prompts[0]), "top": [[1, 0.5]], "tokens": [1]}]

    goal = tmp_path / "model.rfb"
    whole = CompileOptions(model, goal, jobs=3, **options)
    return compile_model(whole, BuildCache(tmp_path / "cache"), told, make), goal


ARCHS = ("gfx1100", "host", "gfx942")


def test_the_stages_of_a_compile(tmp_path: Path, built: list[tuple[object, ...]]) -> None:
    told, golden = Told(), Golden()
    manifest, goal = compiled(tmp_path, told, golden, archs=ARCHS, toolchain="zig", max_context=100)
    totals = [total for _, _, total, _, _ in built]
    assert built == [(arch, f"zig-{arch}", total, 3, "cache") for arch, total in zip(ARCHS, totals, strict=True)]
    stages = [event for event in told.events if len(event) == 3]
    whole = sum(int(str(total)) for total in totals)
    assert stages == [
        ("read model", 0, ""),
        ("build kernels", whole, "objects"),
        ("pack weights", 0, "MiB"),
        ("write bundle", 0, ""),
        ("golden records", 0, ""),
    ]
    assert ("note", "target: gfx1100, host, gfx942") in told.events
    at = told.events.index(stages[1])
    assert told.events[at + 1 : at + 1 + whole] == [(done,) for done in range(1, whole + 1)]
    nothing = hashlib.sha256().hexdigest()  # these compilers are no files
    compilers = {f"zig-{arch}": {"version": f"version of {arch}", "sha256": nothing} for arch in ARCHS}
    assert manifest.options == {
        "archs": list(ARCHS),
        "max_context": 100,
        "toolchain": "zig",
        "tuning": {},
        "kv_type": "f16",
        "toolchains": compilers,
        "packages": {name: metadata.version(name) for name in ("gguf", "jinja2", "numpy", "safetensors", "tokenizers")},
    }
    assert manifest.generator == __version__
    rows = [(row.arch, row.level, row.file, row.toolchain, row.layout) for row in manifest.targets]
    assert rows == [
        ("gfx1100", "", "code/gfx1100.hsaco", "zig-gfx1100", "layout.msgpack"),
        ("host", "x86_64_amx", "code/host-x86_64_amx.so", "zig-host", "layout-host.msgpack"),
        ("host", "x86_64_v4", "code/host-x86_64_v4.so", "zig-host", "layout-host.msgpack"),
        ("host", "x86_64_v3", "code/host-x86_64_v3.so", "zig-host", "layout-host.msgpack"),
        ("host", "portable", "code/host-portable.so", "zig-host", "layout-host.msgpack"),
        ("gfx942", "", "code/gfx942.hsaco", "zig-gfx942", "layout-gfx942.msgpack"),
    ]
    assert set(manifest.memory) == set(ARCHS)
    for row in manifest.targets:
        assert (goal / row.file).read_bytes() == row.file.encode()
    assert (goal / "graph.txt").read_text().startswith("embedded[T, 64]float32 = embedding()")
    assert "# fixture" in (goal / "README.md").read_text()
    # Sources of each back end: its headers, and what was rendered for its targets.
    for backend, count in (("host", 1), ("hip", 2)):
        names = {path.name for path in (goal / "src" / backend).iterdir()}
        assert set(kernel_headers(backend)) < names
        assert len(names) > len(kernel_headers(backend)) + count


@pytest.mark.slow
def test_each_kind_of_target_has_weights_of_its_own(tmp_path: Path, built: list[tuple[object, ...]]) -> None:
    """Equal to those of a bundle for this kind alone, which has one file."""
    compiled(tmp_path, Told(), Golden(), archs=("gfx1100", "host", "gfx942"))
    both = {path.name: path.read_bytes() for path in (tmp_path / "model.rfb").glob("weights*")}
    assert both.keys() == {"weights.bin", "weights-hip.bin"}
    for archs, name in ((("host",), "weights.bin"), (("gfx942", "gfx1100"), "weights-hip.bin")):
        _, goal = compiled(tmp_path, Told(), Golden(), archs=archs)
        assert [path.name for path in goal.glob("weights*")] == ["weights.bin"]
        assert (goal / "weights.bin").read_bytes() == both[name]


def test_golden_records_are_made_by_the_portable_code(tmp_path: Path, built: list[tuple[object, ...]]) -> None:
    golden = Golden()
    manifest, _ = compiled(tmp_path, Told(), golden, archs=("host", "gfx1100"))
    ((layout, weights, code, prompts),) = golden
    assert code == b"code/host-portable.so"
    assert weights.startswith("weights.bin")
    assert layout.max_seq_len == 256
    assert len(prompts) == 2
    assert len(manifest.golden) == 1


def test_a_bundle_without_the_host_has_golden_records_too(tmp_path: Path, built: list[tuple[object, ...]]) -> None:
    """From a host build that is thrown away."""
    golden = Golden()
    manifest, goal = compiled(tmp_path, Told(), golden, archs=("gfx1100",), toolchain="clang", max_context=20)
    ((layout, _, code, prompts),) = golden
    assert code == b"code/host-portable.so"
    assert [row[1] for row in built] == ["clang-gfx1100", "auto-host"]
    assert int(str(built[1][2])) == len(layout_kernels(layout)) + 1  # of one level, and the step's driver
    assert (layout.max_seq_len, len(prompts), len(manifest.golden)) == (20, 2, 1)
    assert [path.name for path in (goal / "code").iterdir()] == ["gfx1100.hsaco"]
    assert not (goal / "src" / "host").exists()


def layout_kernels(layout: Layout) -> set[str]:
    return {launch.kernel for launch in layout.launches}


def test_kernels_of_gpus_that_are_alike_are_one_row_of_the_table(
    tmp_path: Path, built: list[tuple[object, ...]]
) -> None:
    manifest, goal = compiled(tmp_path, Told(), Golden(), archs=("host", "gfx1100", "gfx1101"))
    symbols = [str(row["symbol"]) for row in manifest.kernels]
    assert symbols == sorted(set(symbols))
    told = [row["resources"] for row in manifest.kernels if row["resources"]]
    code = {arch: {"arch": arch, "code": f"code/{arch}.hsaco"} for arch in ("gfx1100", "gfx1101")}
    assert told == [[code["gfx1100"], code["gfx1101"]]]
    with open_bundle(goal) as bundle:
        assert isinstance(bundle, Bundle)
        assert {row["symbol"] for row in bundle.manifest.kernels} == set(symbols)


def test_what_the_user_fixed_is_in_the_manifest(tmp_path: Path, built: list[tuple[object, ...]]) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    tuning = Tuning(tile_k=128)
    options: dict[str, Any] = {"archs": ("gfx1100",), "tuning": tuning, "chat_template": tmp_path / "chat.jinja"}
    manifest, goal = compiled(tmp_path, Told(), Golden(), **options)
    assert manifest.options["tuning"] == {"tile_k": 128}
    assert (goal / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((goal / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_a_model_whose_logits_are_not_finite_leaves_nothing(tmp_path: Path, built: list[tuple[object, ...]]) -> None:
    record: dict[str, object] = {"prompt": [1], "top": [[1, float("nan")]], "tokens": [1]}
    with pytest.raises(GgufError, match="expected finite logits"):
        compiled(tmp_path, Told(), Golden(), record)
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf", "cache"}


@pytest.mark.parametrize("asked, ok", [(0, False), (1, True), (1000, True), (1001, False)])
def test_the_longest_context_that_may_be_asked_for(
    asked: int, ok: bool, tmp_path: Path, built: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "MOST_CONTEXT", 1000)
    if ok:
        assert compiled(tmp_path, Told(), Golden(), archs=("gfx1100",), max_context=asked)[0].options
        return
    with pytest.raises(UsageError) as caught:
        compiled(tmp_path, Told(), Golden(), archs=("gfx1100",), max_context=asked)
    assert str(caught.value) == f"--max-context: expected 1 to 1000, found {asked}"
