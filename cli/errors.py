"""What ends a command: one line and an exit code for wrong usage, bad input and faults of the machine."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import click

from ..artifacts.errors import RocmforgeError, os_problem, printable

DIFFERS: Final = 5
"""Exit code of `rfc rebuild --check` and `rfc diff` where two bundles are not what was hoped: no fault of anything."""
MIN_ADDRESS_SPACE: Final = 320 << 20
"""Bytes below which the libraries that load or compile a model end the process themselves, and not in one line."""
_NO_THREAD: Final = "can't start new thread"  # Python's RuntimeError has no type of its own for it


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"rfc: {message}", err=True)
    raise SystemExit(exit_code)


def require_address_space() -> None:
    """Refuse to load a model where `ulimit -v` leaves no room for even the code that does it.

    Raises:
        RocmforgeError: it does.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        needed = f"expected {MIN_ADDRESS_SPACE >> 20} MiB or more beside the model, found {limit >> 20}"
        raise RocmforgeError(f"memory is limited (ulimit -v): {needed}")


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn wrong usage, bad input and faults of the machine into one line and an exit code.

    Nothing else is caught: a traceback means a defect of ours.
    """
    try:
        yield
    except RocmforgeError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(1) from None
    except MemoryError:
        _fail("out of memory", 1)
    except ImportError as error:  # a library that is not installed, or for which there is no memory
        _fail(f"cannot load {printable(error.name)}: {printable(error, 600)}", 1)
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        _fail("no more threads are available: memory or processes are limited (ulimit -v, ulimit -u)", 1)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        _fail(os_problem(error), 1)


def _drop_output() -> None:
    """Have what standard output did not take go nowhere: Python would try to write it when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class Group(click.Group):
    """A group of commands each of which ends as told above."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line and exit."""
        with _in_one_line():
            try:
                result = super().main(*args, **{**extra, "standalone_mode": False})
            except click.UsageError as error:
                hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
                _fail(printable(error.format_message(), 600) + hint, error.exit_code)
            sys.exit(result if isinstance(result, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        """Run a command; what it printed has arrived, or is an error too."""
        with _in_one_line():
            result = super().invoke(context)
            sys.stdout.flush()
        return result
