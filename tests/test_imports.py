"""The import rules of the design: who may import whom, and what must not be loaded to serve."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HTTP_ROOMS = [
    f"runtime/http/{room}"
    for room in ("core", "transport", "native", "openai", "anthropic", "ollama", "llama_cpp", "lm_studio", "proxy")
]
# The rooms, and which others each may import; "" is the package itself, of which only the version is taken.
MAY_IMPORT = {
    "artifacts": set(),
    "cli": {
        *("artifacts", "compiler", "library", "runtime", "runtime/device", "runtime/text", "runtime/engine"),
        # never `tools`: the emulator comes by its entry point
        *("runtime/telemetry", "runtime/http/core", "runtime/http/transport", "signing", "registry", ""),
    },
    "compiler": {"artifacts", ""},
    "library": {
        *("artifacts", "compiler", "runtime/device", "runtime/text", "runtime/engine", "runtime/pictures"),
        "runtime/telemetry",
    },
    "signing": {"artifacts", ""},
    "registry": {"artifacts"},
    "runtime/device": {"artifacts"},
    "runtime/text": {"artifacts"},
    "runtime/pictures": {"artifacts", "runtime/device"},
    "runtime/engine": {"artifacts", "runtime/device", "runtime/pictures", "runtime/text"},
    "runtime/telemetry": {"artifacts", "runtime/engine", ""},
    "runtime/http/core": {
        *("artifacts", "runtime/engine", "runtime/pictures", "runtime/text", "runtime/telemetry", ""),
    },
    "runtime/http/transport": {"artifacts", "runtime/engine", "runtime/telemetry", "runtime/http/core"},
    "runtime/http/openai": {"artifacts", "runtime/engine", "runtime/text", "runtime/http/core"},
    # The errors of OpenAI's API, with words of its own.
    "runtime/http/anthropic": {
        "artifacts",
        "runtime/engine",
        "runtime/text",
        "runtime/http/core",
        "runtime/http/openai",
    },
    "runtime/http/ollama": {"artifacts", "runtime/engine", "runtime/text", "runtime/http/core", ""},
    "runtime/http/lm_studio": {"runtime/http/core"},
    # `/models` has what `/v1/models` has.
    "runtime/http/native": {
        *("artifacts", "runtime/engine", "runtime/telemetry", "runtime/http/core", "runtime/http/openai", ""),
    },
    # `/apply-template` takes the requests of OpenAI's chats, `/v1/health` is `/health`.
    "runtime/http/llama_cpp": {
        *("artifacts", "runtime/engine", "runtime/text", "runtime/http/core", "runtime/http/openai"),
        *("runtime/http/native", ""),
    },
    "runtime/http/proxy": {"artifacts", "runtime/http/core"},
    "runtime/http": {"artifacts", "runtime/telemetry", *HTTP_ROOMS},
    "runtime": {
        *("artifacts", "library", "runtime/device", "runtime/text", "runtime/engine", "runtime/telemetry", ""),
        "runtime/pictures",
        *("runtime/http", "runtime/http/core", "runtime/http/transport", "runtime/http/proxy"),
    },
}


def modules_of(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Modules of the package that a module imports, anywhere in it, as paths from the root; also names of theirs."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    parts = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "rocmforge"):
            base = parts[: len(parts) - node.level + 1] if node.level else ()
            module = [*base, *(node.module or "").removeprefix("rocmforge").strip(".").split(".")]
            found = "/".join(filter(None, module))
            yield from {found, *(f"{found}/{alias.name}".strip("/") for alias in node.names)}
        elif isinstance(node, ast.Import):
            yield from (
                a.name.partition(".")[2].replace(".", "/") for a in node.names if a.name.startswith("rocmforge")
            )


def file_of(module: str) -> Path | None:
    found = (ROOT / f"{module}.py", ROOT / module / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def room_of(path: Path) -> str:
    folder = path.relative_to(ROOT).parent.as_posix()
    return next((room for room in MAY_IMPORT if f"{folder}/".startswith(f"{room}/")), folder.strip("."))


@pytest.mark.parametrize("room", list(MAY_IMPORT))
def test_rooms_import_only_what_they_may(room: str) -> None:
    modules = [path for path in modules_of(room) if room_of(path) == room]
    assert modules
    for path in modules:
        found = {room_of(file) for module in imported(path) if (file := file_of(module)) is not None}
        assert found - {room} <= MAY_IMPORT[room], path


def test_there_is_no_import_cycle() -> None:
    """No module needs itself, however far around; a package's `__init__` here imports nothing."""
    paths = [
        path
        for folder in ("artifacts", "cli", "compiler", "library", "registry", "runtime", "signing")
        for path in modules_of(folder)
    ]
    graph = {path: {file_of(module) for module in imported(path)} & set(paths) for path in paths}
    assert sum(map(len, graph.values())) > len(paths)
    while leaves := [path for path, needs in graph.items() if not needs & set(graph)]:
        for path in leaves:
            del graph[path]
    assert not graph, f"cycle among {sorted(path.relative_to(ROOT).as_posix() for path in graph)}"


def test_serving_loads_neither_compiler_nor_toolchain() -> None:
    code = (
        "import sys, rocmforge.cli, rocmforge.runtime.serve;"
        "print([m for m in sys.modules if m.startswith(('rocmforge.compiler', 'ziglang', 'gguf', 'rich'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_prompt_on_the_cpu_loads_nothing_of_what_it_lacks() -> None:
    """What drives GPUs, drafts, sees, or holds texts to a grammar is imported with the first that needs it."""
    code = "import sys, rocmforge.cli.run, rocmforge.runtime.terminal; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    lacking = (
        *("runtime.device.hip.api", "runtime.device.hip.program", "runtime.engine.draft_loading"),
        *("runtime.pictures.read", "runtime.text.constraints", "runtime.text.template_sandbox", "registry.client"),
    )
    assert "rocmforge.runtime.engine.engine" in loaded
    assert not loaded & {f"rocmforge.{name}" for name in lacking}


def test_every_test_file_is_run() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert {path for path in found if not path.startswith(tuple(listed))} == set()


def test_no_test_imports_from_a_file_of_tests() -> None:
    """What several need is in `support`, `oracles` or a harness, where a reader looks for it."""
    found = {path: imported(path) for path in modules_of("tests")}
    assert sum(map(len, found.values())) > len(found)
    files = {path: [name for name in names if "/test_" in name and file_of(name)] for path, names in found.items()}
    assert {path.relative_to(ROOT).as_posix(): names for path, names in files.items() if names} == {}


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = (
        "artifacts",
        "cli",
        "compiler",
        "kernels",
        "library",
        "registry",
        "runtime",
        "signing",
        "templates",
        "tools",
    )
    found = [path.parent.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("__init__.py")]
    assert sorted(listed) == sorted(["rocmforge", *(".".join(("rocmforge", *path.parts)) for path in found)])


def test_what_the_design_names_is_there() -> None:
    """Each file of the two walks of docs/design.md, and each function and class beside its name."""
    text = (ROOT / "docs/design.md").read_text()
    named = re.findall(r"`((?:artifacts|compiler|runtime|kernels|tests)/[\w/.]+)`", text)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []
    sources = "".join(
        path.read_text() for folder in ("artifacts", "compiler", "runtime") for path in modules_of(folder)
    )
    functions = re.findall(r"`((?:\w+\.)?[a-z]+_[a-z_]+)`", text)
    words = {name.rpartition(".")[2] for name in functions}
    assert {word for word in words if f"def {word}(" not in sources} <= {"unpack_block"}
