"""A compile that is killed, interrupted or doubled: the old bundle or the whole new one, never a third state."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import verify_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.killed import Killed
from rocmforge.tests.support.process import (
    COMMAND,
    PATIENCE_SECONDS,
    digest_of,
    environment,
    files_of,
    refused,
    rfc,
    wait_until,
)
from rocmforge.tools.generate.fixtures import write_model

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1


@pytest.fixture(scope="module")
def old_bundle(small_gguf: Path, small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model of the same shapes and other weights."""
    folder = tmp_path_factory.mktemp("old")
    digest_of(rfc("compile", write_model(folder / "old.gguf", seed=1), "--cache-dir", small_cache))
    return folder / "old.rfb"


def digest_at(goal: Path) -> str | None:
    """The digest of a bundle, read whole and checked; None where there is nothing at all."""
    if not os.path.lexists(goal):
        return None
    with verify_bundle(goal) as bundle:
        return bundle.manifest.bundle_digest


def leftovers(goal: Path) -> list[str]:
    return sorted(path.name for path in goal.parent.iterdir() if path != goal)


@pytest.mark.parametrize("replace", [False, True], ids=["new goal", "old bundle there"])
def test_F61_kill_9_at_every_step(
    replace: bool, small_gguf: Path, small_bundle: Path, old_bundle: Path, small_cache: Path, tmp_path: Path
) -> None:
    """Steps are the calls that touch the goal's folder: every other one of the last, which put the bundle in its place,
    and some before. `test_writer_faults.py` goes through all steps."""
    goal = tmp_path / "goals" / "model.rfb"
    goal.parent.mkdir()
    killer = Killed(tmp_path, goal.parent, "compile", small_gguf, "-o", goal, "--cache-dir", small_cache)
    new, old = digest_at(small_bundle), digest_at(old_bundle) if replace else None

    def reset() -> None:
        shutil.rmtree(goal.parent)
        goal.parent.mkdir()
        if replace:
            shutil.copytree(old_bundle, goal)

    reset()
    assert killer.run(0) == 0
    steps = killer.steps
    assert steps > 40  # one at least for each file
    seen = set()
    for step in [*range(1, steps - 8, steps // 3), *range(steps, steps - 8, -2)]:
        reset()
        assert killer.dies(step)
        seen.add(digest_at(goal))
        assert len(leftovers(goal)) <= 1
    assert seen == {old, new}
    assert killer.run(0) == 0
    assert digest_at(goal) == new
    assert leftovers(goal) == []
    assert files_of(goal) == files_of(small_bundle)


def started(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options
    )


def after_stage(process: subprocess.Popen[str], stage: str) -> None:
    """Wait until a compile with --json has finished a stage."""
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line).get("stage") == stage:
            return
    pytest.fail(f"the stage never ended: {stage}")


def test_F61_kill_9_while_kernels_are_built(
    small_gguf: Path, small_bundle: Path, made_small: Path, tmp_path: Path
) -> None:
    """With a cache that lacks every third kernel, at random moments; what the killed ones left in it serves the last
    one."""
    goal, cache = tmp_path / "goals" / "model.rfb", tmp_path / "cache"
    goal.parent.mkdir()
    shutil.copytree(made_small / "cache/object", cache / "object")
    kept = entries(cache, "object")
    for path in kept[::3]:
        path.unlink()
    compile_again = ("compile", small_gguf, "-o", goal, "--cache-dir", cache, "--json")
    delays = random.Random(61)
    for _ in range(3):
        with started(*compile_again) as process:
            after_stage(process, "read model")
            try:
                process.wait(delays.uniform(0, 1))
            except subprocess.TimeoutExpired:
                process.kill()
        assert digest_at(goal) in {None, digest_at(small_bundle)}
        assert len(leftovers(goal)) <= 1
    done = rfc(*compile_again[:-1])
    assert digest_of(done) == digest_at(goal) == digest_at(small_bundle)
    assert leftovers(goal) == []
    assert entries(cache, "object") == kept


SLOW_COMPILER = """\
#!/bin/sh
case "$1" in --version|-print-*) echo "slow compiler 1.0"; exit;; esac
sleep 300 &
echo $$ $! >> "$(dirname "$0")/pids"
wait
"""


def running(pid: int) -> bool:
    """Whether a process lives; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_F68_a_compile_that_is_killed_leaves_no_compiler_and_no_folder(
    small_gguf: Path, small_bundle: Path, small_cache: Path, tmp_path: Path
) -> None:
    """The compilers here start a process of their own, as gcc and hipcc do, and would run for minutes."""
    tools, temporary, goal = tmp_path / "tools", tmp_path / "temporary", tmp_path / "model.rfb"
    tools.mkdir()
    temporary.mkdir()
    compiler, pids = tools / "slow-cc", tools / "pids"
    compiler.write_text(SLOW_COMPILER)
    compiler.chmod(0o755)
    arguments = ("compile", small_gguf, "-o", goal, "--cache-dir", tmp_path / "cache", "--jobs", "2")
    command = [*COMMAND, *map(str, arguments), "--toolchain", str(compiler)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment(TMPDIR=str(temporary)))
    try:
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 4, "two compilers with a child each")
        compilers = [int(pid) for pid in pids.read_text().split()]
        assert all(map(running, compilers))
        assert len(list(temporary.iterdir())) == 1
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(running, compilers)), "the compilers' end")
    wait_until(lambda: list(temporary.iterdir()) == [], "the folder's end")
    done = rfc("compile", small_gguf, "-o", goal, "--cache-dir", small_cache, TMPDIR=str(temporary))
    assert digest_of(done) == digest_at(small_bundle)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "lines"),
    [(signal.SIGINT, 130, ["rfc: interrupted"]), (signal.SIGTERM, 143, [])],
    ids=["Ctrl-C", "SIGTERM"],
)
@pytest.mark.parametrize("stage", ["read model", "pack weights"])
def test_interrupted_compile_leaves_nothing(
    number: signal.Signals,
    code: int,
    lines: list[str],
    stage: str,
    smollm2_gguf: Path,
    smollm2_path: Path,
    build_cache: BuildCache,
    tmp_path: Path,
) -> None:
    """As a terminal does it: the signal goes to the compilers too, which run after "read model" with a cold cache."""
    assert smollm2_path.exists()
    (tmp_path / "goals").mkdir()
    cache = tmp_path / "cache" if stage == "read model" else build_cache.root
    options = ("-o", tmp_path / "goals" / "model.rfb", "--json", "--cache-dir", cache)
    with started("compile", smollm2_gguf, *options, start_new_session=True) as process:
        after_stage(process, stage)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, errors
    assert [line for line in errors.splitlines() if not line.startswith("{")] == lines
    assert list((tmp_path / "goals").iterdir()) == []


def without_privilege() -> None:
    """Root writes wherever it likes, by a capability; without it, permission bits bind root too."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise PermissionError("cannot drop CAP_DAC_OVERRIDE")


def test_F64_read_only_goal(small_gguf: Path, old_bundle: Path, small_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "goals"
    shutil.copytree(old_bundle, folder / "model.rfb")
    before = files_of(folder)
    folder.chmod(0o555)
    try:
        for name in ("model.rfb", "other.rfb"):
            command = [*COMMAND, "compile", str(small_gguf), "-o", str(folder / name), "--cache-dir", str(small_cache)]
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment(), preexec_fn=without_privilege, check=False
            )
            refused_after_progress(done, 1, name, "Permission denied")
    finally:
        folder.chmod(0o755)
    assert files_of(folder) == before


def refused_after_progress(done: subprocess.CompletedProcess[str], exit_code: int, *parts: str) -> None:
    *progress, last = done.stderr.splitlines(keepends=True)
    assert not any(line.startswith(("rfc:", "Traceback")) for line in progress)
    done.stderr = last
    refused(done, exit_code, *parts)


@pytest.mark.parametrize("goal", ["file/model.rfb", "nothing/model.rfb"])
def test_F64_no_folder_for_the_goal(goal: str, small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = rfc("compile", small_gguf, "-o", tmp_path / goal, "--cache-dir", small_cache)
    refused_after_progress(done, 1, goal)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_F78_a_goal_that_is_somebody_elses_folder(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    goal = tmp_path / "extension"
    goal.mkdir()
    (goal / "manifest.json").write_text('{"manifest_version": 3}')
    (goal / "page.js").write_text("precious")
    before = files_of(tmp_path)
    done = rfc("compile", small_gguf, "-o", goal, "--cache-dir", small_cache)
    refused_after_progress(done, 2, "extension/manifest.json", "format_version", "is not replaced")
    assert files_of(tmp_path) == before


def test_F65_the_same_compile_twice_at_once(
    small_gguf: Path, small_bundle: Path, made_small: Path, tmp_path: Path
) -> None:
    """Both lack a third of the objects and all that is made of objects, and build it at once."""
    goal = tmp_path / "goals" / "model.rfb"
    goal.parent.mkdir()
    cache = tmp_path / "cache"
    shutil.copytree(made_small / "cache/object", cache / "object")
    kept = entries(cache, "object")
    for path in kept[::3]:
        path.unlink()
    arguments = ("compile", small_gguf, "-o", goal, "--cache-dir", cache)
    both = [started(*arguments), started(*arguments)]
    for process in both:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, errors
        assert output.split()[-1] == digest_at(small_bundle)
    assert digest_at(goal) == digest_at(small_bundle)
    assert leftovers(goal) == []
    assert entries(cache, "object") == kept


def damages(path: Path) -> Iterator[Callable[[], object]]:
    data = path.read_bytes()
    yield lambda: path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    yield lambda: path.write_bytes(data[: len(data) // 2])
    yield lambda: path.write_bytes(b"")


def test_F66_corrupt_cache_entries(small_gguf: Path, small_bundle: Path, made_small: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made_small / "cache", tmp_path / "cache"))
    arguments = ("compile", small_gguf, "-o", tmp_path / "model.rfb", "--cache-dir", copy)
    for index, path in enumerate(entries(copy, "object")[:8]):
        list(damages(path))[index % 3]()
    for path in entries(copy, "golden"):
        path.write_bytes(b"[]")
    done = rfc(*arguments)
    assert digest_of(done) == digest_at(small_bundle)
    assert done.stderr.count("corrupt cache entry removed") == 8 + 1
    again = rfc(*arguments)
    assert digest_of(again) == digest_at(small_bundle)
    assert "corrupt" not in again.stderr


def entries(cache: Path, kind: str) -> list[Path]:
    return sorted(path for path in (cache / kind).glob("*/*/*") if path.is_file())


def test_F25_gguf_cut_while_it_is_compiled(
    smollm2_gguf: Path, smollm2_path: Path, build_cache: BuildCache, tmp_path: Path
) -> None:
    """Cut when its weights are about to be read: an error that names the file, and no SIGBUS."""
    assert smollm2_path.exists()  # so the cache is warm
    model = tmp_path / "model.gguf"
    shutil.copy(smollm2_gguf, model)
    goal = tmp_path / "goals" / "model.rfb"
    goal.parent.mkdir()
    with started("compile", model, "-o", goal, "--cache-dir", build_cache.root, "--json") as process:
        after_stage(process, "build kernels")
        os.truncate(model, 1 << 21)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 3, errors
    assert errors.splitlines()[-1].startswith(f"rfc: {model}: ")
    assert list(goal.parent.iterdir()) == []
