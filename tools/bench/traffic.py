"""Requests to load a server with, and the judge of what comes back: each must equal its solo run.

A request is run once alone; whatever the server does at the same time, later runs must send the same events. One that
was cancelled must have sent a beginning of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rocmforge.tools.bench.http_load import Address, Exchange

STREAM: Final = "/generate/stream"
_TEXTS: Final = ("README.md", "CONTRIBUTING.md", "LICENSE", "docs/performance.md", "tools/bench/http_load.py")


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a stream: a token, the text that it decided, and whether and why it is the last."""

    token: int | None
    text: str
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A request of `/generate/stream`, and what it sends when it is alone."""

    body: dict[str, Any]
    expected: tuple[Step, ...]


def make_bodies(count: int, seed: int, max_tokens: int = 128) -> list[dict[str, Any]]:
    """`count` distinct requests: prompts of real text, many of which begin alike, all kinds of sampling."""
    root = Path(__file__).resolve().parents[2]
    texts = [text for name in _TEXTS if (text := (root / name).read_text("utf-8"))]
    chooser = random.Random(seed)
    starts = [(text, chooser.randrange(len(text) // 2)) for text in texts for _ in range(4)]
    bodies = []
    for index in range(count):
        text, start = chooser.choice(starts)
        length = int(chooser.choice((20, 100, 400, 1200)) * chooser.uniform(0.5, 1.5))
        bodies.append(
            {
                "prompt": text[start : start + length],
                "max_tokens": chooser.randint(1, max_tokens),
                "seed": index,
                **chooser.choice(
                    (
                        {"temperature": 0.0},
                        {"temperature": 1.0},
                        {"temperature": 1.0, "top_k": 40, "top_p": 0.9},
                        {"temperature": 0.7, "repetition_penalty": 1.1},
                    )
                ),
            }
        )
    return bodies


def step_of(document: dict[str, Any]) -> Step:
    """An event as it is compared."""
    return Step(document["token"], document["text"], document["finish_reason"])


async def run_alone(address: Address, body: dict[str, Any]) -> Case:
    """Run a request to its end while nothing else runs.

    Raises:
        HttpError: it was refused, or broke.
    """
    async with Exchange(address, "POST", STREAM, body) as exchange:
        return Case(body, tuple([step_of(event.document) async for event in exchange.events()]))


def judge(case: Case, steps: Sequence[Step], cancelled: bool) -> str | None:
    """What is wrong with a stream that was read to its end; None: nothing.

    Args:
        case: what was asked, and its solo run.
        steps: the events received.
        cancelled: whether somebody asked for its end: it may have come too late.
    """
    if not steps or steps[-1].finish_reason is None:
        return f"ended without its last event, after {len(steps)}"
    if tuple(steps) == case.expected:
        return None
    if cancelled and steps[-1].finish_reason == "cancelled":
        *before, last = steps
        if last.token is None and tuple(before) == case.expected[: len(before)]:
            return None
    at = next((i for i, (a, b) in enumerate(zip(steps, case.expected, strict=False)) if a != b), len(steps))
    expected = case.expected[at] if at < len(case.expected) else "nothing"
    found = steps[at] if at < len(steps) else "nothing"
    return f"event {at}: expected {expected}, found {found}"


def judge_beginning(case: Case, steps: Sequence[Step]) -> str | None:
    """What is wrong with a stream that the client left; None: nothing."""
    if tuple(steps) == case.expected[: len(steps)]:
        return None
    return f"left after {len(steps)} events, which are no beginning of its solo run"
