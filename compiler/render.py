"""Renders kernel specs to C sources: constants by the template, and behind them a header of `kernels/`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Final

import jinja2

from ..artifacts.abi import c_header
from ..artifacts.dataclass import dataclass
from ..artifacts.formats import FORMATS
from .plan import KernelSpec, Parameter


@dataclass(frozen=True, slots=True)
class Source:
    """One translation unit: `name` as in the bundle's src/<backend>/, `text` C or HIP.

    Attributes:
        panels: it uses the tiles of a processor that has such.
    """

    name: str
    text: str
    panels: bool = False


# Of a backend: the suffix of its sources.
_SUFFIXES: Final = {"host": ".c", "hip": ".hip"}

# Templates of the host that multiply panels of tokens, where weights are quantized (kernels/host/weights_panels.h).
_PANEL_TEMPLATES: Final = frozenset({"matmul", "gate_up"})


def macros(spec: KernelSpec) -> Iterator[tuple[str, Parameter]]:
    """Return the names and values by which the C of a kernel knows its parameters.

    A number is a macro of its own name in capitals, and so is the literal of a float. A word is a choice: `dot`
    `sdot4` is DOT_SDOT4. A weight format is the macros of its row.
    """
    for name, value in spec.parameters:
        if name == "weight_type":
            yield from FORMATS[str(value)].defines.items()
        elif isinstance(value, str) and value.isidentifier():
            yield f"{name}_{value}".upper(), 1
        else:
            yield name.upper(), int(value) if isinstance(value, bool) else value


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rocmforge", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("kernel.j2")


def render_kernel(backend: str, spec: KernelSpec) -> Source:
    """Return the source of one kernel."""
    text = _template().render(
        backend=backend,
        symbol=spec.symbol,
        template=spec.template,
        parameters=json.dumps(dict(spec.parameters), sort_keys=True),
        macros=macros(spec),
    )
    kind = str(dict(spec.parameters).get("weight_type", "F32"))
    panels = backend == "host" and spec.template in _PANEL_TEMPLATES and not FORMATS[kind].is_float
    return Source(f"{spec.symbol}{_SUFFIXES[backend]}", text, panels)


def render_program() -> Source:
    """Return the source of the host's step driver, which is the same for all models."""
    return Source("program.c", '/* The program: kernels/host/program.h */\n#include "program.h"\n', panels=True)


@cache
def kernel_headers(backend: str) -> Mapping[str, str]:
    """Return the headers of a backend, by file name: those written by hand, and what the runtime hands to kernels."""
    kernels = resources.files("rocmforge.kernels")
    files = [item for folder in ("shared", backend) for item in (kernels / folder).iterdir()]
    return {"abi.h": c_header(backend)} | {
        item.name: item.read_text("utf-8")
        for item in sorted(files, key=lambda item: item.name)
        if item.name.endswith(".h")
    }
