"""Bundles made again and compared: what a manifest records, which cause is named, and where logits part.

Only the host's portable code is built: a compile is then a matter of seconds.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import ToolchainError, UsageError
from rocmforge.artifacts.manifest import Manifest
from rocmforge.cli.compare import _rebuilt as rebuilt
from rocmforge.compiler import compile as compile_module
from rocmforge.compiler import host_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.build_inputs import PACKAGES
from rocmforge.compiler.changes import Changes
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.kept_adapters import NamedAdapter
from rocmforge.compiler.lora import LoraFile
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.rebuild import BuildFiles, RebuildResult
from rocmforge.compiler.target import Target, find_targets
from rocmforge.compiler.toolchain import ziglang_folder
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.bundle_diff import diff_bundles
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.equivalence import Certificate, certify
from rocmforge.tests.support.adapters import write_gguf_adapter
from rocmforge.tests.support.kept_bundle import kept_bundle, kept_model

TEXT = "The quick brown fox jumps over the lazy dog. " * 8


def portable(archs: Sequence[str]) -> list[Target]:
    """Each target's last level, at -O1, which takes half the time."""
    targets = find_targets(tuple(archs))
    lasts = [replace(target.variants[-1], flags=(*target.variants[-1].flags, "-O1")) for target in targets]
    return [replace(target, variants=(last,)) for target, last in zip(targets, lasts, strict=True)]


def compiled(model: Path, goal: Path, cache: BuildCache, **options: Any) -> Manifest:
    chosen = CompileOptions(model, goal, **options)
    return compile_module.compile_model(chosen, cache, Silent(), make_golden)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kept model, and bundles of it: f16.rfb, as is, and q8_0.rfb, with that KV cache."""
    folder = tmp_path_factory.mktemp("made")
    model, cache = kept_model(folder), BuildCache(folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile_module, "find_targets", portable)
        for kv_dtype in ("f16", "q8_0"):
            compiled(model, folder / f"{kv_dtype}.rfb", cache, kv_dtype=kv_dtype)
    return folder


@pytest.fixture(autouse=True)
def only_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "find_targets", portable)


def rebuild(made: Path, name: str = "f16", **files: Any) -> RebuildResult:
    return rebuilt(made / f"{name}.rfb", BuildFiles(made / "bundle_1_4.gguf", **files), None)


def test_what_a_build_took_is_recorded(made: Path) -> None:
    with open_bundle(made / "f16.rfb") as bundle:
        options = bundle.manifest.options
    assert options["packages"] == {
        name: metadata.version(name) for name in ("gguf", "jinja2", "numpy", "safetensors", "tokenizers")
    }
    (tool,) = options["toolchains"].values()  # type: ignore[attr-defined]
    assert tool["version"] == f"ziglang {metadata.version('ziglang')}"
    assert len(bytes.fromhex(tool["sha256"])) == 32


def test_a_rebuild_is_the_same_to_the_byte(made: Path) -> None:
    result = rebuild(made, "q8_0")
    assert result.identical
    assert (result.files, result.causes) == ((), ())


def test_adapters_that_were_kept_are_given_again(made: Path, tmp_path: Path) -> None:
    model = made / "bundle_1_4.gguf"
    name = next(name for name in read_gguf(model).tensors if name.endswith("ffn_down.weight"))
    rows, columns = read_gguf(model).tensors[name].shape
    random = np.random.default_rng(0)
    pair = random.normal(0, 0.1, (2, columns)).astype(np.float32), random.normal(0, 0.1, (rows, 2)).astype(np.float32)
    adapters = [write_gguf_adapter(tmp_path / f"{one}.gguf", {name: pair}) for one in ("b", "a")]
    kept = NamedAdapter("sql", LoraFile(adapters[0], 0.5)), NamedAdapter("a", LoraFile(adapters[1]))
    compiled(model, tmp_path / "kept.rfb", BuildCache(tmp_path / "cache"), changes=Changes(adapters=kept))
    assert rebuilt(tmp_path / "kept.rfb", BuildFiles(model, adapters=tuple(adapters)), None).identical
    with pytest.raises(UsageError, match="--adapter: expected 2 adapters, as the bundle was made with, found 0"):
        rebuilt(tmp_path / "kept.rfb", BuildFiles(model), None)
    with pytest.raises(UsageError, match="--adapter: expected 0 adapters, as the bundle was made with, found 1"):
        rebuild(made, adapters=(adapters[0],))


def wrapped_zig(folder: Path, more: str) -> Path:
    """A ziglang that is another program: it compiles with `more`, and else does as the installed one."""
    real = ziglang_folder()
    (folder / "lib").symlink_to(real / "lib")
    zig = folder / "zig"
    tool = shlex.quote(str(real / "zig"))
    zig.write_text(f'#!/bin/sh\nif [ "$1" = clang ]; then exec {tool} "$@" {more}; fi\nexec {tool} "$@"\n')
    zig.chmod(0o755)
    return folder


def test_another_compiler_is_the_cause(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = wrapped_zig(tmp_path, "-O2")
    monkeypatch.setattr(host_toolchain, "ziglang_folder", lambda: wrapped)
    monkeypatch.setattr(host_toolchain, "ziglang_version", lambda: "ziglang 0.99.0")
    result = rebuild(made)
    assert result.files == ("code/host-portable.so", "manifest.json")
    assert [cause.what for cause in result.causes] == [
        "options.toolchains.zig.sha256",
        "options.toolchains.zig.version",
        "targets.host portable.toolchain",
    ]
    assert result.causes[1].text("recorded", "here") == (
        f"options.toolchains.zig.version: recorded ziglang {metadata.version('ziglang')}, here ziglang 0.99.0"
    )


def test_a_compiler_that_is_another_and_fails_is_the_cause(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = wrapped_zig(tmp_path, "--no-such-option")
    monkeypatch.setattr(host_toolchain, "ziglang_folder", lambda: wrapped)
    with pytest.raises(ToolchainError, match="zig failed"):  # by its version it is the one of then
        rebuild(made)
    monkeypatch.setattr(host_toolchain, "ziglang_version", lambda: "ziglang 0.16.0")
    result = rebuild(made)
    assert (result.identical, result.rebuilt, result.problem[:10]) == (False, None, "zig failed")
    assert [(cause.what, cause.second) for cause in result.causes] == [("toolchains.zig.version", "ziglang 0.16.0")]


def test_another_package_is_the_cause(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {name: "9.9" if name == "numpy" else metadata.version(name) for name in PACKAGES}
    monkeypatch.setattr(compile_module, "package_versions", lambda: versions)
    result = rebuild(made)
    assert result.files == ("manifest.json",)
    assert [(cause.what, cause.second) for cause in result.causes] == [("options.packages.numpy", "9.9")]


def test_a_bundle_of_before_is_made_again(made: Path, tmp_path: Path) -> None:
    """Its manifest has no record of packages and compilers; its logits are those of what is compiled now.

    Kernels may be others since, which add in another order: to the tolerance of golden records then.
    """
    kept, goal = kept_bundle(tmp_path), tmp_path / "again.rfb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile_module, "find_targets", portable)
        result = rebuilt(kept, BuildFiles(made / "bundle_1_4.gguf"), goal)
    recorded = {cause.what for cause in result.causes if cause.first is None}
    assert {"options.packages.numpy", "options.toolchains.zig.sha256"} < recorded
    with open_bundle(kept) as one, open_bundle(goal) as other:
        tolerance = one.manifest.targets[0].golden_tolerance
        texts = certify(one, other, DeviceOptions("host", 2), TEXT).texts
    assert len(texts) == 3
    assert all(text.parting is None or text.parting.largest <= tolerance for text in texts)


def certified(made: Path, first: str, second: str, text: str | None = TEXT) -> Certificate:
    with open_bundle(made / f"{first}.rfb") as one, open_bundle(made / f"{second}.rfb") as other:
        return certify(one, other, DeviceOptions("host", 2), text)


def test_a_bundle_is_equivalent_to_itself(made: Path) -> None:
    certificate = certified(made, "f16", "f16")
    assert certificate.equivalent
    golden, other, text = certificate.texts
    assert (golden.text, other.text, text.text) == ("golden record 0", "golden record 1", "text")
    assert golden.positions == 16 + 4
    assert text.positions > 256  # longer than the context: in two pieces


def test_where_another_kv_cache_parts(made: Path) -> None:
    """A value of the first token is rounded already, so its logits are others, by what bundles say when run alone."""
    certificate = certified(made, "f16", "q8_0")
    assert not certificate.equivalent
    for text in certificate.texts:
        assert text.parting is not None
        assert text.parting.position == text.positions == 0
        assert 0 < text.parting.logits <= 320
        assert 0 < text.parting.largest < 1
        assert np.isfinite(text.parting.largest)
    with open_bundle(made / "f16.rfb") as one, open_bundle(made / "q8_0.rfb") as other:
        found = diff_bundles(one, other)
    assert found.weights.equal
    assert not found.kernels.equal
    assert "weights.bin" not in found.files.differ
    assert [(row.what, row.first, row.second) for row in found.record] == [("options.kv_type", "f16", "q8_0")]
