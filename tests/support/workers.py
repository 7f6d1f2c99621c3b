"""Engines whose device is in a worker's process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.wire import Start
from rocmforge.tests.support.engine_harness import CountingMetrics

BLOCKS = 64


def start_of(of: Bundle, **changes: object) -> Start:
    start = Start(
        bundle=str(of.path),
        digest=of.manifest.bundle_digest,
        device="host",
        threads=1,  # two would wait for each other on a busy machine
        kv_tokens=BLOCKS * of.layout.kv.block_size,
    )
    return dataclasses.replace(start, **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def working(start: Start, metrics: CountingMetrics | None = None, **options: object) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(start, metrics or CountingMetrics(), **options)  # type: ignore[arg-type]
    engine.start()
    try:
        engine.wait()
        yield engine
    finally:
        engine.stop(0)
    assert engine.pid is None
