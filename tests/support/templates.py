"""Chat templates that render in their processes, and in this one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rocmforge.runtime.text.chat import ChatTemplate
from rocmforge.runtime.text.template_worker import SandboxedTemplate, describe


def children() -> set[int]:
    """Of this process, whatever they do."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@contextlib.contextmanager
def template(source: str) -> Iterator[ChatTemplate]:
    """A template that leaves no process behind."""
    before = children()
    with contextlib.closing(ChatTemplate(source, "<s>", "</s>")) as made:
        yield made
    assert children() <= before


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(made: ChatTemplate, content: str = "hello") -> str:
    return made.render([{"role": "user", "content": content}])


def render(source: str, **variables: object) -> str:
    return SandboxedTemplate(source).render(variables)


def refusal(source: str, **variables: object) -> str:
    """What a template that fails says."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Python raises: `describe` tells it
        render(source, **variables)
    return describe(caught.value)
