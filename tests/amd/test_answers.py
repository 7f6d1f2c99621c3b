"""The emulated API answers wrong calls as AMD's runtime does; where its versions differ, as the newest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.tests.amd.calls import CASES
from rocmforge.tests.amd.runtime import SECONDS, Runtime
from rocmforge.tests.support.process import environment

CALLS = ("-m", "rocmforge.tests.amd.calls")
ARCH, OTHER = "gfx1100", "gfx942"
DAMAGED = ("no_code", "half_an_elf", "an_empty_elf")
"""The runtime never gives them to HIP: it reads a code object itself before. AMD's libraries may end the process."""

# What a version answers otherwise: HIP 5.7 has another word for a foreign arch, does not look at a copy's kind, and has
# its captures bear everything.
_BORNE: list[Any] = [0, 0, 900, 0, 0, True, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
_REFUSED: list[Any] = [0, 0, 1, *_BORNE[3:]]  # as outside of a capture; 7.2 says that the configuration is invalid
OTHERWISE: dict[str, dict[str, list[Any]]] = {
    "trixie": {
        "modules": [303, 500, 1, 400, 400],
        "copies": [1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0],
        "malloc_in_a_capture": _BORNE,
        "wait_in_a_capture": _BORNE,
        "bad_launch_in_a_capture": _REFUSED,
        "query_in_a_capture": _BORNE,
        "other_stream_in_a_capture": [*_BORNE[:2], 0, 0, 900, 0, 0, 0, *_BORNE[5:]],
    },
    "sid": {"bad_launch_in_a_capture": _REFUSED},
    "experimental": {},
}


def arguments(bundle: Path) -> tuple[str, ...]:
    with open_bundle(bundle) as opened:
        files = {target.arch: str(bundle / target.file) for target in opened.manifest.targets}
        layout = next(opened.layout_of(target) for target in opened.manifest.targets if target.arch == ARCH)
    return files[ARCH], layout.launches[0].kernel, files[OTHER]


def emulated(bundle: Path, *cases: str) -> dict[str, list[Any]]:
    command = [sys.executable, *CALLS, *arguments(bundle), f"emulated:{ARCH}", *cases]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


def check_answers(runtime: Runtime, bundle: Path) -> None:
    cases = [case for case in CASES if case not in DAMAGED]
    done = runtime.run(ARCH, "python", *CALLS, *arguments(bundle), "hip", *cases)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, list[Any]] = dict(map(json.loads, done.stdout.splitlines()))
    expected = emulated(bundle, *cases) | OTHERWISE[runtime.suite]
    assert [(case, found.get(case), expected[case]) for case in cases if found.get(case) != expected[case]] == []


def test_answers(trixie: Runtime, small: Path) -> None:
    check_answers(trixie, small)


@pytest.mark.nightly
@pytest.mark.parametrize("suite", ["sid", "experimental"])
def test_answers_of_newer_versions(suite: str, small: Path, request: pytest.FixtureRequest) -> None:
    check_answers(request.getfixturevalue(suite), small)


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_code_is_refused_or_ends_the_process(trixie: Runtime, case: str, small: Path) -> None:
    done = trixie.run(ARCH, "python", *CALLS, *arguments(small), "hip", case)
    assert emulated(small, case) == {case: [200]}
    if done.returncode == 0:
        assert json.loads(done.stdout) == [case, [218]]
    else:
        assert done.returncode in (-signal.SIGSEGV, -signal.SIGABRT), done.stderr
