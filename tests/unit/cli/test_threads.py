"""The command line starts no threads that it does not use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_COUNT = "import rocmforge.cli, numpy, os; print(len(os.listdir('/proc/self/task')))"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
@pytest.mark.parametrize(("wanted", "threads"), [(None, 1), ("3", 3)])
def test_numpy_starts_the_threads_that_were_asked_for(wanted: str | None, threads: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if wanted is not None:
        environment["OPENBLAS_NUM_THREADS"] = wanted
    done = subprocess.run([sys.executable, "-c", _COUNT], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(threads, os.cpu_count() or 1)
