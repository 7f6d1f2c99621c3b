"""The import rules of the design: who may import whom, and what must not be loaded to serve."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "artifacts": set(),
    "compiler": {"artifacts", "__version__"},
    "runtime": {"artifacts", "__version__"},
}


def imported_folders(path: Path, folder: str) -> set[str]:
    """Top-level folders of the package that a module imports, by relative or absolute import."""
    found = set()
    depth_of_root = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if node.level == depth_of_root:
                found |= {module[0]} if module[0] else {alias.name for alias in node.names}
            elif node.level == 0 and module[0] == "rocmforge":
                found.add(module[1] if len(module) > 1 else "")
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rocmforge.")}
    return found - {folder}


@pytest.mark.parametrize("folder", list(MAY_IMPORT))
def test_folders_import_only_what_they_may(folder: str) -> None:
    modules = sorted((ROOT / folder).rglob("*.py"))
    assert modules
    for path in modules:
        assert imported_folders(path, folder) <= MAY_IMPORT[folder], path


def test_there_is_no_import_cycle() -> None:
    for folder in MAY_IMPORT:
        modules = {path.stem: path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
        graph = {
            name: {
                (node.module or "").split(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.ImportFrom) and node.level == 1
            }
            & set(modules)
            for name, path in modules.items()
        }
        while leaves := [name for name, needs in graph.items() if not needs & set(graph)]:
            for name in leaves:
                del graph[name]
        assert not graph, f"{folder}: cycle among {sorted(graph)}"


def test_serving_loads_neither_compiler_nor_toolchain() -> None:
    code = (
        "import sys, rocmforge.cli, rocmforge.runtime.serve;"
        "print([m for m in sys.modules if m.startswith(('rocmforge.compiler', 'ziglang', 'gguf', 'rich'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_test_file_is_run() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert {path for path in found if not path.startswith(tuple(listed))} == set()
