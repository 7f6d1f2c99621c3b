"""What is told of a bundle, and which models are found in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import BundleError, InputError, UsageError
from rocmforge.compiler.inspect import format_facts
from rocmforge.runtime import inspect
from rocmforge.runtime.inspect import find_models, format_resources, inspect_bundle

GPU = {"arch": "gfx1100", "vgprs": 1, "sgprs": 2, "spills": 3, "scratch_bytes": 4, "lds_bytes": 5, "threads": 6}
GPU["waves_per_simd"] = 7
KERNELS: list[dict[str, Any]] = [
    {"symbol": "host", "launches_per_step": 1, "resources": []},
    {"symbol": "one", "launches_per_step": 2, "resources": [GPU]},
    {"symbol": "both", "launches_per_step": 0, "resources": [GPU, {**GPU, "arch": "gfx942"}]},
]
SAME = {"weights_bytes": 10, "arena_bytes": 20}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a bundle says."""
    manifest = SimpleNamespace(
        **{"bundle_digest": "abc", "format_version": "1.0", "generator": "0.2", "kernels": tuple(KERNELS)},
        model=SimpleNamespace(name="a\nb", architecture="llama", parameters=7, quantization="Q8_0"),
        targets=[
            SimpleNamespace(arch="host", level="portable", toolchain_version="cc 1"),
            SimpleNamespace(arch="host", level="avx2", toolchain_version="cc 1"),
            SimpleNamespace(arch="gfx1100", level="", toolchain_version="hipcc 2"),
        ],
        memory={"host": dict(SAME), "gfx1100": dict(reversed(SAME.items()))},
        options={},
        parts={},
    )
    grids = [None, SimpleNamespace(at_least=0), SimpleNamespace(at_least=1), SimpleNamespace(at_least=2)]
    layout = SimpleNamespace(
        max_seq_len=256, launches=[SimpleNamespace(grid=grid) for grid in grids], kv=SimpleNamespace(dtype="f16")
    )
    bundle = SimpleNamespace(manifest=manifest, layout=layout)

    @contextlib.contextmanager
    def open_bundle(path: Path) -> Iterator[Any]:
        yield bundle

    monkeypatch.setattr(inspect, "open_bundle", open_bundle)
    return bundle


def test_all_facts_of_a_bundle(made: Any) -> None:
    assert list(inspect_bundle(Path("x\n.rfb")).items()) == [
        ("bundle", "x\\n.rfb"),
        ("digest", "abc"),
        ("format_version", "1.0"),
        ("made_by", "rocmforge 0.2"),
        ("model", "a\\nb"),
        ("architecture", "llama"),
        ("parameters", 7),
        ("quantization", "Q8_0"),
        ("context", 256),
        ("code", "host portable (cc 1), host avx2 (cc 1), gfx1100 (hipcc 2)"),
        ("kernel_launches_per_token", 3),
        ("kv_type", "f16"),
        *SAME.items(),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": 7},
        {"launches_per_step": None},
        {"resources": 1.5},
        {"resources": [3]},
        {"resources": [{"arch": "host"}]},
    ],
)
def test_a_table_of_kernels_in_no_form_is_refused(made: Any, change: dict[str, Any]) -> None:
    made.manifest.kernels = (KERNELS[0], {**KERNELS[1], **change})
    with pytest.raises(BundleError, match=rf"x/manifest\.json: kernels\[1\]\.{next(iter(change))}: expected "):
        inspect_bundle(Path("x"), True)


@pytest.mark.parametrize("rows", [7, [7], [{}], [{"sha256": "a"}]])
@pytest.mark.parametrize("name", ["lora", "adapters"])
def test_adapters_in_no_form_are_refused(made: Any, name: str, rows: object) -> None:
    made.manifest.options = {name: rows}
    with pytest.raises(BundleError, match=r"x/manifest\.json: options: expected adapters"):
        inspect_bundle(Path("x"))


def test_what_a_stranger_says_moves_no_cursor(made: Any, tmp_path: Path) -> None:
    """Of a bundle any text may be of whoever made it."""
    made.manifest.model.quantization = made.manifest.generator = made.manifest.targets[0].level = "\x1b[2J\n"
    made.manifest.model.architecture = "\x9b"
    made.manifest.options = {"quantize": "\x1b", "imatrix": "\x07"}
    made.manifest.files = {}
    assert all(line.isprintable() for line in format_facts(inspect_bundle(Path("x"))))
    assert format_resources({**GPU, "threads": "\x1b"}).isprintable()
    for name in ("layout.msgpack", "manifest.json"):
        (tmp_path / name).write_bytes(b"")
    assert find_models(tmp_path)[0]["about"] == "a\\nb (\\x1b[2J\\n)"


@pytest.mark.parametrize(
    "memory, told",
    [
        ({}, {}),
        ({"host": {"a": 1}}, {"a": 1}),
        ({"host": {"a": 1}, "gfx942": {"a": 1}}, {"a": 1}),
        ({"host": {"a": 1}, "gfx942": {"a": 2}}, {"host_a": 1, "gfx942_a": 2}),
    ],
)
def test_figures_that_differ_are_told_for_each_arch(
    made: Any, memory: Mapping[str, Mapping[str, int]], told: Mapping[str, int]
) -> None:
    made.manifest.memory = memory
    facts = inspect_bundle(Path("x"))
    assert list(facts)[: -len(told) or None][-1] == "kv_type"
    assert {name: facts[name] for name in list(facts)[list(facts).index("kv_type") + 1 :]} == told


@pytest.mark.parametrize(
    "with_kernels, arch, expected",
    [
        (False, None, None),
        (True, None, ["host", "one", "both"]),
        (False, "gfx1100", ["one", "both"]),
        (True, "gfx1100", ["one", "both"]),
        (False, "host", ["host"]),
    ],
)
def test_the_kernels_of_an_arch(made: Any, with_kernels: bool, arch: str | None, expected: list[str] | None) -> None:
    kernels: Any = inspect_bundle(Path("x"), with_kernels, arch).get("kernels")
    assert (None if kernels is None else [row["symbol"] for row in kernels]) == expected


def test_what_was_changed_in_the_weights(made: Any) -> None:
    made.manifest.options = {
        "quantize": "Q4_K",
        "imatrix": "0a",
        "lora": [{"sha256": "0b", "scale": 1.0}, {"sha256": "0c", "scale": -0.5}],
    }
    facts = inspect_bundle(Path("x.rfb"))
    assert {key: facts[key] for key in ("quantized_to", "importance_matrix", "merged_adapters")} == {
        "quantized_to": "Q4_K",
        "importance_matrix": "sha256 0a",
        "merged_adapters": "sha256 0b times 1.0, sha256 0c times -0.5",
    }


def test_an_arch_that_it_has_no_code_for(made: Any) -> None:
    with pytest.raises(UsageError) as caught:
        inspect_bundle(Path("x"), arch="gfx\n9")
    assert str(caught.value) == "--arch gfx\\n9: the bundle has code for host, gfx1100"


@pytest.mark.parametrize("waves, told", [(8, "8"), (None, "?")])
def test_what_a_kernel_takes(waves: int | None, told: str) -> None:
    line = "gfx1100: 1 VGPRs, 2 SGPRs, 3 spills, 4 B scratch, 5 B LDS, 6 threads"
    assert format_resources({**GPU, "waves_per_simd": waves}) == f"{line}, {told} waves a SIMD"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_models(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: folder: expected a folder, found none"
    assert find_models(tmp_path) == []


def test_the_models_of_a_folder(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.gguf").write_bytes(b"12345")
    (tmp_path / "b" / "y.gguf.part").write_bytes(b"1")
    (tmp_path / "c.gguf").mkdir()
    (tmp_path / "e" / "manifest.json").mkdir(parents=True)
    for name in ("a.rfb", "killed.rfb.partial", "d.rfb", "a web page", "e"):
        (tmp_path / name).mkdir(exist_ok=True)
        if name != "e":
            (tmp_path / name / "manifest.json").write_text("{")
        if name != "a web page":
            (tmp_path / name / "layout.msgpack").touch()
    made.manifest.files = {"weights.bin": SimpleNamespace(n_bytes=1000), "code": SimpleNamespace(n_bytes=50)}
    opened = vars(inspect)["open_bundle"]

    def open_bundle(path: Path) -> Any:
        if path.name == "d.rfb":
            raise BundleError(path, "format", "torn")
        return opened(path)

    monkeypatch.setattr(inspect, "open_bundle", open_bundle)
    assert find_models(tmp_path) == [
        {"kind": "bundle", "path": f"{tmp_path}/a.rfb", "size_bytes": 1050, "about": "a\\nb (Q8_0)"},
        {"kind": "gguf", "path": f"{tmp_path}/b/x.gguf", "size_bytes": 5, "about": ""},
        {
            **{"kind": "bundle", "path": f"{tmp_path}/d.rfb", "size_bytes": 0},
            "about": f"unreadable: {tmp_path}/d.rfb: format: torn",
        },
    ]
