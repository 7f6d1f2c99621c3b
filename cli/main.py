"""The command `rfc`. Each command is imported when it is asked for, and imports what it needs when it runs."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

import click

from .. import __version__
from ..artifacts.errors import UsageError
from .errors import Group

START_THRESHOLD = 50_000
"""Objects between two collections: what a start imports stays, and to look at it again and again is 7 % of its time."""

_MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bench": ("bench",),
        "client": ("generate", "status", "cancel"),
        "compare": ("rebuild", "diff"),
        "compile": ("compile",),
        "inspect": ("inspect", "models", "doctor"),
        "registry": ("push", "pull"),
        "run": ("run", "verify", "profile"),
        "serve": ("serve",),
        "signing": ("sign", "attest"),
    }
)
"""Which commands a module has."""


class _Commands(Group):
    """The commands, each imported when it is asked for: those that nobody asked for take as long as the one that is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all."""
        return sorted(name for names in _MODULES.values() for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        for module, names in _MODULES.items():
            if cmd_name in names:
                found = import_module(f".{module}", __package__)
                return cast("click.Command", getattr(found, "compile_command" if cmd_name == "compile" else cmd_name))
        return None


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rfc")
@click.pass_context
def main(context: click.Context) -> None:
    """ROCmForge: compile a GGUF model into a bundle, serve the bundle."""
    gc.set_threshold(START_THRESHOLD)
    atexit.register(gc.freeze)  # else what is left is looked at twice more before the process ends: 7 ms
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)
