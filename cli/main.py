"""The command `rfc`. Each command imports what it needs when it runs: `rfc serve` must start at once."""

from __future__ import annotations

import gc

import click

from .. import __version__
from ..artifacts.errors import UsageError
from .bench import bench
from .client import cancel, generate, status
from .compare import diff, rebuild
from .compile import compile_command
from .errors import Group
from .inspect import doctor, inspect, models
from .registry import pull, push
from .run import profile, run, verify
from .serve import serve
from .signing import attest, sign

START_THRESHOLD = 50_000
"""Objects between two collections: what a start imports stays, and to look at it again and again is 7 % of its time."""


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rfc")
@click.pass_context
def main(context: click.Context) -> None:
    """ROCmForge: compile a GGUF model into a bundle, serve the bundle."""
    gc.set_threshold(START_THRESHOLD)
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


_BUNDLES = (compile_command, rebuild, diff, verify, sign, attest, push, pull, inspect, models)
for command in (*_BUNDLES, serve, run, bench, profile, doctor, generate, status, cancel):
    main.add_command(command)
