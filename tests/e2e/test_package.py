"""The package as a user installs it: built twice the same, serving with no compiler there, and the quick start."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import requests
from packaging.requirements import Requirement

from rocmforge.artifacts.bundle import verify_bundle
from rocmforge.signing.envelope import Signing
from rocmforge.signing.files import write_companion
from rocmforge.signing.model_signature import sign_bundle
from rocmforge.tests.clients.programs import python_program
from rocmforge.tests.support.kept_bundle import kept_bundle
from rocmforge.tests.support.keys import make_key
from rocmforge.tests.support.process import PATIENCE_SECONDS
from rocmforge.tests.support.registries import running_registry
from rocmforge.tools.generate.fixtures import write_model

ROOT = Path(__file__).parents[2]
UV = (sys.executable, "-m", "uv")
BUILD = "import sys, build_backend as b; goal = sys.argv[1]; b.build_wheel(goal); b.build_sdist(goal)"


def run(*command: object, cwd: Path | None = None, **changes: str) -> str:
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    texts = [str(part) for part in command]
    done = subprocess.run(
        texts, capture_output=True, text=True, cwd=cwd, env=own | changes, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def source_tree(goal: Path, date: int) -> Path:
    """A copy of what git has of this tree (its files as they are now), each written at `date`."""
    names = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue  # no test is packed, and what was removed is gone
        (goal / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, goal / name)
        shutil.copymode(ROOT / name, goal / name)
        os.utime(goal / name, (date, date))
    return goal


def built(tree: Path, out: Path, **changes: str) -> dict[str, bytes]:
    """The wheel and the sdist of a tree, by name, built by the setuptools that pyproject.toml names."""
    wanted = re.search(r'requires = \["(setuptools==[^"]+)"\]', (ROOT / "pyproject.toml").read_text())
    assert wanted
    python = python_program("setuptools", wanted[1]) / "python"
    out.mkdir()
    run(python, "-c", BUILD, out, cwd=tree, **{"PYTHONPATH": str(tree / "deploy")} | changes)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist of this tree."""
    folder = tmp_path_factory.mktemp("distributions")
    built(source_tree(folder / "tree", 1_700_000_000), folder / "dist", SOURCE_DATE_EPOCH="1700000000")
    return folder / "dist"


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_wheel_and_sdist_are_built_the_same_twice(distributions: Path, tmp_path: Path) -> None:
    """By another user, elsewhere, at another time, beside what an earlier build left; and the wheel from the sdist."""
    first = {path.name: path.read_bytes() for path in distributions.iterdir()}
    assert sorted(first) == ["rocmforge-0.1.0-py3-none-any.whl", "rocmforge-0.1.0.tar.gz"]
    tree = source_tree(tmp_path / "another tree", 1_600_000_000)
    (tree / "build/lib/rocmforge").mkdir(parents=True)
    (tree / "build/lib/rocmforge/left_over.py").touch()
    for path in tree.rglob("*"):
        path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
    settings = {"SOURCE_DATE_EPOCH": "1700000000", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    assert digests(built(tree, tmp_path / "second", **settings)) == digests(first)
    run("tar", "xzf", distributions / "rocmforge-0.1.0.tar.gz", cwd=tmp_path)
    again = built(tmp_path / "rocmforge-0.1.0", tmp_path / "third", **settings)
    assert digests(again) == digests(first)
    other = built(tree, tmp_path / "fourth", **settings | {"SOURCE_DATE_EPOCH": "1600000000"})
    assert all(other[name] != first[name] for name in first)


def imported(*rooms: str) -> set[str]:
    """Names of the packages that rooms of ours import, anywhere but in `rfc bench`, which is for who compiles too."""
    found: set[str] = set()
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py") if path != ROOT / "cli/bench.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"rocmforge"}


def listed(name: str) -> set[str]:
    lines = (ROOT / "deploy" / name).read_text().splitlines()
    return {found[0] for line in lines if (found := re.match(r"[a-z][a-z0-9-]*", line))}


def test_the_list_for_serving_is_what_serving_imports() -> None:
    """And what these packages themselves need to be imported."""
    projects = packages_distributions()
    names = {re.sub(r"[-_.]+", "-", projects[name][0]).lower() for name in imported("artifacts", "cli", "runtime")}
    names = {name for name in names if not name.startswith("opentelemetry-")}  # several projects share that package
    tracing = {f"opentelemetry-{name}" for name in ("api", "sdk", "semantic-conventions")}
    assert listed("serving.in") == names | tracing | {"markupsafe", "typing-extensions"}
    assert listed("serving.txt") == listed("serving.in")


def test_the_list_for_pulling_is_what_pulling_imports() -> None:
    """The libraries of registries and of signatures, and what these need; of it nothing that serving has, and not what
    they ask for and do not import to verify by a key or a certificate."""
    assert imported("registry") <= {"oras", "requests", "urllib3"}
    needed, names = set[str](), ["oras", "model-signing", "certifi", "pyopenssl"]
    while names:
        name = names.pop()
        if name not in needed:
            needed.add(name)
            asked = [Requirement(line) for line in requires(name) or ()]
            asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
            names += [re.sub(r"[-_.]+", "-", one.name).lower() for one in asked]
    never = {"asn1crypto", "markdown-it-py", "mdurl", "pycparser", "pygments", "rich"}
    assert listed("pulling.in") == needed - never - listed("serving.in")
    assert listed("pulling.txt") == listed("pulling.in")


@contextmanager
def served(rfc: Path, bundle: Path, folder: Path) -> Iterator[str]:
    """`rfc serve` from an environment of its own; its URL."""
    own = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([rfc, "serve", bundle, "--addr", "127.0.0.1:0"], stderr=log, env=own, cwd=folder)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := re.search(r" on (http://\S+)", (folder / "log").read_text())) is None:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def chat(url: str, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0, **more}
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_serving_with_nothing_else_installed(distributions: Path, tmp_path: Path) -> None:
    """The locked list of deploy/ and the wheel, without its dependencies: a chat, a schema, metrics, the page."""
    venv, bundle = tmp_path / "venv", kept_bundle(tmp_path)
    run(*UV, "venv", "--quiet", "--python", sys.executable, venv)
    install = (*UV, "pip", "install", "--quiet", "--python", venv / "bin/python", "--no-deps")
    run(*install, "--require-hashes", "-r", ROOT / "deploy/serving.txt")
    run(*install, next(distributions.glob("*.whl")))
    installed = {path.name for path in venv.glob("lib/python*/site-packages/*")}
    assert {"rocmforge", "numpy"} < installed
    assert not {"ziglang", "gguf", "rich", "safetensors"} & installed
    schema = {"type": "json_schema", "json_schema": {"name": "yes", "schema": {"enum": ["yes"]}}}
    with served(venv / "bin/rfc", bundle, tmp_path) as url:
        assert isinstance(chat(url), str)
        assert json.loads(chat(url, response_format=schema)) == "yes"
        for path in ("/ready", "/live", "/metrics", "/traces", "/v1/models", "/openapi.json", "/"):
            assert requests.get(url + path, timeout=PATIENCE_SECONDS).status_code == 200, path
    assert "digests: " in run(venv / "bin/rfc", "verify", bundle)
    # With the list for pulling beside it, as in the image `pull`: by digest, only what the key signed, and once only.
    run(*install, "--require-hashes", "-r", ROOT / "deploy/pulling.txt")
    assert not {"ziglang", "gguf"} & {path.name for path in venv.glob("lib/python*/site-packages/*")}
    home, goal, key = str(tmp_path), tmp_path / "models/kept.rfb", make_key(tmp_path)
    public = str(key.public)
    with verify_bundle(bundle) as opened:
        write_companion(bundle / "model.sig", sign_bundle(opened, Signing(key.private)))
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry") as registry:
        name = run(venv / "bin/rfc", "push", bundle, f"{registry.host}/team/kept:v1", HOME=home).strip()
        pulled = run(venv / "bin/rfc", "pull", name, "--output", goal, HOME=home, ROCMFORGE_VERIFY_KEY=public)
        assert pulled == f"{goal}  {name}\n"
    assert run(venv / "bin/rfc", "pull", name, "--output", goal, HOME=home, ROCMFORGE_VERIFY_KEY=public) == pulled
    assert (goal / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()


@pytest.mark.nightly
def test_the_quick_start_in_an_empty_environment(distributions: Path, tmp_path: Path) -> None:
    """`pip install` of the wheel with all that it asks for, then compile and serve."""
    venv, model = tmp_path / "venv", write_model(tmp_path / "model.gguf", num_layers=1)
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/pip", "install", "--quiet", next(distributions.glob("*.whl")))
    run(venv / "bin/rfc", "compile", model, cwd=tmp_path, HOME=str(tmp_path))
    with served(venv / "bin/rfc", tmp_path / "model.rfb", tmp_path) as url:
        assert isinstance(chat(url), str)
