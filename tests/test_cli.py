"""What the command line decides by itself; commands as users type them are in end_to_end/test_cli.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rocmforge import cli
from rocmforge.artifacts import hip
from rocmforge.cli import main
from rocmforge.cli_emulator import make_emulator
from rocmforge.tools.emulator import HipEmulator


@pytest.mark.parametrize(
    ("asked", "versions", "archs"),
    [
        ("gfx942 host", (110000,), ("gfx942", "host")),
        ("", (), ("host",)),
        ("", (110000,), ("gfx1100",)),
        ("", (90402, 110000, 90402), ("gfx942", "gfx1100")),
        ("", (100303,), ("gfx10-3-generic",)),  # no code of its own, but its family's
        ("", (80003,), ("host",)),
        ("", (80003, 110000), ("gfx1100",)),
        (" ", (110000,), ("gfx1100",)),
    ],
)
def test_archs_where_none_is_named(
    asked: str, versions: tuple[int, ...], archs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$ROCm_ARCH, else those of the GPUs in the topology, else the host."""
    for index, version in enumerate((0, *versions)):  # the first node is the processor
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "properties").write_text(f"simd_count 4\ngfx_target_version {version}\n")
    monkeypatch.setenv("ROCm_ARCH", asked)
    installed = hip.installed_arches
    monkeypatch.setattr(hip, "installed_arches", lambda: installed(tmp_path))
    assert cli._default_archs() == archs


def test_the_emulator_is_that_of_the_arch() -> None:
    emulator = make_emulator("gfx942")
    assert isinstance(emulator, HipEmulator)
    assert emulator.arch == "gfx942"


def test_help_says_what_holds_where_nothing_is_given() -> None:
    text = " ".join(CliRunner().invoke(main, ["serve", "--help"]).output.split())
    for default in (
        "--addr TEXT HOST:PORT. [default: 127.0.0.1:8080]",
        "emulated or emulated:ARCH; auto: a GPU that the bundle has code for, else host. [default: auto]",
        "--max-body INTEGER RANGE Largest request, bytes. [default: 4 MiB]",
        "--threads INTEGER RANGE Threads of the host target. [default: (CPUs); 1<=x<=1024]",
    ):
        assert default in text
    for command in ("run", "generate"):
        text = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        assert "--top-k INTEGER RANGE 0: off. [default: 50; x>=0]" in text
