"""The cache of bundles of a GGUF that is served directly: another bundle wherever anything that decides it differs."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler import bundle_cache
from rocmforge.compiler.bundle_cache import cached_bundle
from rocmforge.compiler.changes import Changes
from rocmforge.compiler.lora import LoraFile
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.tuning import Tuning
from rocmforge.tests.support.bundle import write_bundle


class Compiles:
    """In the place of `compile_model`: what was compiled."""

    def __init__(self) -> None:
        self.asked: list[CompileOptions] = []

    def __call__(self, options: CompileOptions, *rest: object) -> None:
        self.asked.append(options)
        write_bundle(options.goal)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Compiles:
    made = Compiles()
    monkeypatch.setattr(bundle_cache, "compile_model", made)
    return made


@pytest.fixture
def options(tmp_path: Path) -> CompileOptions:
    for name in ("model.gguf", "other.gguf"):
        (tmp_path / name).write_bytes(b"GGUF model")
    for name in ("tokenizer.json", "chat.jinja"):
        (tmp_path / name).write_text("one")
    return CompileOptions(tmp_path / "model.gguf", tmp_path / "model.gguf")


def served(options: CompileOptions, said: list[str] | None = None) -> Path:
    def make(*rest: object) -> list[dict[str, object]]:
        raise NotImplementedError

    root = options.model.parent / "cache"
    return cached_bundle(options, root, (said if said is not None else []).append, make, lambda _text: None)


OTHER: dict[str, Any] = {
    "model": "other.gguf",
    "archs": ("host", "gfx1100"),
    "tokenizer": "tokenizer.json",
    "max_context": 64,
    "toolchain": "zig",
    "tuning": Tuning(tile_k=128),
    "kv_dtype": "q8_0",
    "chat_template": "chat.jinja",
    "changes": Changes(quantize="Q8_0"),
    "drafts": False,
    "mmproj": "other.gguf",
    "draft_head": "other.gguf",
}


def test_a_bundle_is_compiled_once(compiles: Compiles, options: CompileOptions) -> None:
    said: list[str] = []
    goal = served(options, said)
    assert served(options, said) == goal
    assert served(replace(options, jobs=7), said) == goal  # it decides nothing
    assert [one.goal for one in compiles.asked] == [goal]
    assert ["compiling" in line for line in said] == [True, False, False]


@pytest.mark.parametrize("field", OTHER)
def test_each_option_that_decides_a_bundle_makes_another(
    compiles: Compiles, options: CompileOptions, field: str
) -> None:
    value = OTHER[field]
    is_file = isinstance(value, str) and "." in value
    other = replace(options, **{field: options.model.parent / value if is_file else value})
    goals = {served(options), served(other)}
    assert len(goals) == len(compiles.asked) == 2
    assert getattr(compiles.asked[1], field) == getattr(other, field)
    assert {served(options), served(other)} == goals
    assert len(compiles.asked) == 2


def test_adapters_and_an_importance_matrix_make_another(compiles: Compiles, options: CompileOptions) -> None:
    adapter, imatrix = options.model.parent / "tokenizer.json", options.model.parent / "chat.jinja"
    asked = (
        Changes((LoraFile(adapter),)),
        Changes((LoraFile(adapter, 0.5),)),
        Changes((LoraFile(imatrix),)),
        Changes((LoraFile(adapter), LoraFile(adapter))),
        Changes(quantize="Q8_0"),
        Changes(quantize="Q8_0", imatrix=imatrix),
    )
    goals = {served(replace(options, changes=changes)) for changes in asked}
    assert len(goals) == len(asked)


def test_no_option_is_forgotten() -> None:
    """A new one belongs into the key, and above; `goal` and `jobs` decide nothing."""
    assert {field.name for field in fields(CompileOptions)} == {*OTHER, "goal", "jobs"}


@pytest.mark.parametrize("name", ["model.gguf", "tokenizer.json", "chat.jinja"])
@pytest.mark.parametrize("how", ["size", "time"])
def test_a_file_that_changed_makes_another(compiles: Compiles, options: CompileOptions, name: str, how: str) -> None:
    folder = options.model.parent
    options = replace(options, tokenizer=folder / "tokenizer.json", chat_template=folder / "chat.jinja")
    first, status = served(options), (folder / name).stat()
    if how == "size":
        (folder / name).write_bytes((folder / name).read_bytes() + b"!")
        os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert served(options) != first


def test_another_version_makes_another(
    compiles: Compiles, options: CompileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = served(options)
    monkeypatch.setattr(bundle_cache, "__version__", "99")
    assert served(options) != first


def test_a_damaged_bundle_is_made_anew(compiles: Compiles, options: CompileOptions) -> None:
    goal = served(options)
    (goal / "tokenizer.json").write_bytes(b"[]")
    said: list[str] = []
    assert served(options, said) == goal
    assert "damaged" in said[0]
    assert len(compiles.asked) == 2
    assert (goal / "tokenizer.json").read_bytes() == b"{}"


@pytest.mark.parametrize("content", [None, b"", b"GGU", b"GGML model"])
def test_what_is_no_gguf_is_refused(compiles: Compiles, options: CompileOptions, content: bytes | None) -> None:
    options.model.unlink()
    if content is not None:
        options.model.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.gguf: file: expected a bundle or a GGUF file"):
        served(options)
    assert compiles.asked == []
