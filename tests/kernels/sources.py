"""What the C of a kernel says of itself, and the warnings that it must be free of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from rocmforge.artifacts.formats import FORMATS
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.render import Source, kernel_headers, macros
from rocmforge.compiler.toolchain import run_compiler

WARNINGS: Final = (
    *("-Wconversion", "-Wno-sign-conversion", "-Wdouble-promotion", "-Wcast-qual", "-Wshadow", "-Wundef"),
    *("-Wvla", "-Wcomma", "-Wunreachable-code", "-Wimplicit-fallthrough"),
)
"""Errors beside those of every build (-Wall -Wextra): a compiler that is not the pinned one may know more of them."""

_OUTPUT: Final = ("-emit-llvm", "-Xclang", "-emit-obj")  # flags of builds that are no compiler's that only parses


@cache
def kernels_of(backend: str) -> list[str]:
    """The headers that are a kernel, without their suffix."""
    return sorted(name[:-2] for name, text in kernel_headers(backend).items() if re.search(r"\bSYMBOL\b( =|\()", text))


@cache
def _whole(backend: str, kernel: str, pattern: str) -> str:
    """The header of a kernel, and all headers that it includes or names as a pattern says."""
    headers, names = kernel_headers(backend), [f"{kernel}.h"]
    for name in names:
        names += [found for found in re.findall(pattern, headers[name]) if found in headers and found not in names]
    return "".join(headers[name] for name in names)


def head(backend: str, kernel: str) -> str:
    """The comment that a kernel's header opens with."""
    return kernel_headers(backend)[f"{kernel}.h"].partition("*/")[0]


@cache
def names_read(backend: str, kernel: str) -> frozenset[str]:
    """All words of its C, without comments."""
    text = _whole(backend, kernel, r'#include "([\w.]+)"')
    return frozenset(re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)))


@cache
def names_at_head(backend: str, kernel: str) -> frozenset[str]:
    """All words of its comments, and of those that it refers to: constants "as in gemv.h"."""
    text = _whole(backend, kernel, r"(\w+\.h)")
    return frozenset(re.findall(r"\w+", "".join(re.findall(r"/\*.*?\*/", text, re.DOTALL))))


def names_given(spec: KernelSpec, weights: bool = True) -> set[str]:
    """The macros that a spec sets, but choices that need not be read; with those of its weight format, or without."""
    values = dict(spec.parameters)
    choices = {f"{name}_{value}".upper() for name, value in values.items() if isinstance(value, str)}
    format_of = FORMATS[str(values["weight_type"])].defines if "weight_type" in values else {}
    return {name for name, _ in macros(spec)} - choices - (set() if weights else set(format_of))


def write_headers(backend: str, folder: Path) -> Path:
    """Write the headers of a back end's kernels to a folder."""
    for name, text in kernel_headers(backend).items():
        (folder / name).write_text(text)
    return folder


def parse_alone(command: tuple[str, ...], flags: tuple[str, ...], sources: Iterable[Source], folder: Path) -> None:
    """Have a compiler parse sources with the headers of a folder: it warns by then, and of what comes later is an error
    in every build.

    Raises:
        ToolchainError: there is an error, or a warning.
    """
    for source in sources:
        (folder / source.name).write_text(source.text)
        kept = (flag for flag in flags if flag not in _OUTPUT)
        run_compiler((*command, *kept, *WARNINGS, "-I.", "-fsyntax-only", source.name), folder)
