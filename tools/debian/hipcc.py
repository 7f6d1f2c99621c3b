"""Debian's newest hipcc and clang for AMD GPUs, in a folder of their own.

HIPCC=$(python -m rocmforge.tools.debian.hipcc) rfc compile MODEL --arch gfx1100 --toolchain hipcc

The compiler finds its parts by its own path, so it runs in a mount namespace of its own whose root is that folder, with
this machine's other folders bound into it. As root, or where users may make namespaces.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Final

import click

from rocmforge.artifacts.errors import RocmforgeError, ToolchainError
from rocmforge.artifacts.locked import locked
from rocmforge.tools.debian.amd_runtime import work_folder, write_program
from rocmforge.tools.debian.root import Root, fetch_root, run_program

SUITE: Final = "sid"
PACKAGES: Final = ("hipcc", "dash")  # which asks a shell, and no package says that it needs one
_MERGED: Final = ("bin", "sbin", "lib", "lib64")  # links that only a package's script makes

# Folders of this machine that the root has none of are bound into it: sources and outputs keep their paths.
_ENTER: Final = """\
#!/bin/sh
set -e
if [ "$1" = --inside ]; then
    shift
    for folder in /*; do
        case "$folder" in /bin|/sbin|/lib*|/usr|/etc|/sys|/lost+found) continue ;; esac
        [ -d "$folder" ] || continue
        mkdir -p {root}"$folder"
        mount --rbind "$folder" {root}"$folder"
    done
    exec unshare --root={root} --wd="$PWD" "$@"
fi
exec unshare {namespaces} --mount --propagation=private "$0" --inside "$@"
"""


def fetch_hipcc(suite: str = SUITE, update: bool = False) -> Path:
    """The command `hipcc`; beside it lie the clang and the linker that it says are its own.

    Raises:
        ToolchainError: it is unavailable, or may not run here.
    """
    root = fetch_root(work_folder() / f"hipcc-{suite}", suite, PACKAGES, update)
    folder = work_folder() / f"hipcc-{suite}-commands"
    with locked(folder.with_name(f".{folder.name}.lock")):
        _write_commands(root, folder)
    return folder / "hipcc"


def _write_commands(root: Root, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in _MERGED:
        if (root.path / "usr" / name).is_dir() and not (root.path / name).exists():
            (root.path / name).symlink_to(Path("usr", name))
    namespaces = "" if os.geteuid() == 0 else "--user --map-root-user"
    enter = folder / "enter"
    write_program(enter, _ENTER.format(root=shlex.quote(str(root.path)), namespaces=namespaces))
    said = run_program([str(enter), "/usr/bin/hipcc", "--version"])
    found = re.search(r"^InstalledDir: (.+)$", said, re.MULTILINE)
    version = re.search(r"clang version (\d+)", said)
    if found is None or version is None:
        raise ToolchainError(f"hipcc of {root.path.name}: --version names no clang")
    quoted = shlex.quote(str(enter))
    for name in (f"clang-{version[1]}", f"ld.lld-{version[1]}"):
        program = next((p for p in (name, name.rpartition("-")[0]) if (root.path / found[1][1:] / p).exists()), name)
        write_program(folder / name, f'#!/bin/sh\nexec {quoted} {found[1]}/{program} "$@"\n')
    # It names the folder of its clang as it sees it.
    here = shlex.quote(f"s|^InstalledDir: .*|InstalledDir: {folder}|")
    lines = (
        "#!/bin/sh",
        f'if [ "$1" = --version ]; then {quoted} /usr/bin/hipcc --version | sed {here}; exit; fi',
        "export HIP_PLATFORM=amd",
        f'exec {quoted} /usr/bin/hipcc "$@"',
    )
    write_program(folder / "hipcc", "\n".join(lines) + "\n")


@click.command()
@click.option("--update", is_flag=True, help="Fetch the newest, also where one is there.")
def main(update: bool) -> None:
    """Print the path of hipcc."""
    try:
        click.echo(str(fetch_hipcc(update=update)))
    except RocmforgeError as error:
        click.echo(f"debian_hipcc: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
