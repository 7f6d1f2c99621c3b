"""Logits of a model's bundle: on this machine's CPU, or on an emulated GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.library.compilation import compile_bundle
from rocmforge.runtime.device.batch import Program, RowSampling
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.solo import Solo
from rocmforge.tools.emulator import HipEmulator

NUM_BLOCKS = 16


@contextmanager
def bundle_of(model: Path, archs: Sequence[str], toolchain: str) -> Iterator[Bundle]:
    """Compile a model, for as long as the context lasts.

    Raises:
        RocmforgeError: it cannot be compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        goal = Path(folder) / "model.rfb"
        compile_bundle(model, goal, archs=archs, toolchain=toolchain)
        with open_bundle(goal) as bundle:
            yield bundle


def load(bundle: Bundle, arch: str) -> Program:
    """Load a bundle's program of an arch: `host`, or a GPU's, which is emulated."""
    if arch == "host":
        return load_host_program(bundle, NUM_BLOCKS, 2)
    emulator = HipEmulator(arch, check=False, count=False)
    return load_hip_program(bundle, emulator, KvSize(NUM_BLOCKS, 64), nodes=None, report=lambda _line: None)


def last_logits(program: Program, token_ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return float64[vocab_size], of the last of these tokens, all of one step."""
    program.step(Solo(program.layout).batch(token_ids, 0, NUM_BLOCKS, sampling=RowSampling(keep_logits=True)))
    found: npt.NDArray[np.float64] = program.logits(1)[0].astype(np.float64)
    return found
