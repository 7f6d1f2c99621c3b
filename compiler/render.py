"""Kernel specs to C sources, through the Jinja templates of the target's backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import jinja2
import jinja2.meta

from ..artifacts.abi import c_header
from ..artifacts.formats import FORMATS
from .plan import KernelSpec


@dataclass(frozen=True, slots=True)
class Source:
    """One translation unit: `name` as in the bundle's src/<backend>/, `text` C or HIP."""

    name: str
    text: str


def _weight_defines(weight_type: str) -> str:
    """The lines of C that tell kernels a weight format."""
    return "\n".join(f"#define {name} {value}" for name, value in FORMATS[weight_type].defines.items())


@cache
def _environment(backend: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rocmforge", f"templates/{backend}"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        line_statement_prefix="//%",
        autoescape=False,
    )
    environment.filters["weight_defines"] = _weight_defines
    return environment


# Of a backend: the suffix of its sources; templates add ".j2".
_SUFFIXES = {"host": ".c", "hip": ".hip"}


def template_variables(backend: str, template: str) -> frozenset[str]:
    """Names that a template needs."""
    environment = _environment(backend)
    assert environment.loader is not None
    text = environment.loader.get_source(environment, f"{template}{_SUFFIXES[backend]}.j2")[0]
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(text)))


def render_kernel(backend: str, spec: KernelSpec) -> Source:
    """The source of one kernel."""
    parameters = dict(spec.parameters)
    text = (
        _environment(backend)
        .get_template(f"{spec.template}{_SUFFIXES[backend]}.j2")
        .render(symbol=spec.symbol, parameters=json.dumps(parameters, sort_keys=True), **parameters)
    )
    return Source(f"{spec.symbol}{_SUFFIXES[backend]}", text)


def render_program() -> Source:
    """The source of the host's step driver."""
    return Source("program.c", _environment("host").get_template("program.c.j2").render())


@cache
def kernel_headers(backend: str) -> Mapping[str, str]:
    """The headers of a backend, by file name: those written by hand, and what the runtime hands to kernels."""
    folder = resources.files("rocmforge.kernels") / backend
    return {"abi.h": c_header(backend)} | {
        item.name: item.read_text("utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".h")
    }
