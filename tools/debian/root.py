"""Packages of any of Debian's suites, unpacked into a folder of their own: the system is not touched.

apt gets a state, a cache and a list of sources of its own; it downloads what the packages need and `dpkg-deb` unpacks
it. Nothing is installed and no script of a package runs. No root is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rocmforge.artifacts.errors import ToolchainError, printable
from rocmforge.artifacts.locked import locked

VERSIONS: Final = "versions.json"
LIBRARIES: Final = Path("usr/lib/x86_64-linux-gnu")

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OVERLAYS: Final[Mapping[str, tuple[str, ...]]] = {"experimental": ("sid", "experimental")}
"""Suites that hold only what another lacks, and that other."""
_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Root:
    """A folder with packages in it.

    Attributes:
        path: of the folder.
        versions: of each package in it.
    """

    path: Path
    versions: Mapping[str, str]


def fetch_root(
    folder: Path, suite: str, packages: Sequence[str], update: bool = False, architecture: str = "amd64"
) -> Root:
    """The packages with all that they depend on, below `folder`; as they were fetched once, or newest.

    The folder is there whole or not at all, also where several ask for it at once.

    Args:
        folder: to unpack into.
        suite: as `trixie`.
        packages: names.
        update: fetch again; where that fails, what is there stays.
        architecture: as Debian names it.

    Raises:
        ToolchainError: they are unavailable.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")):
        versions = {} if update else _versions(folder)
        if not versions.keys() >= set(packages):
            _replace(folder, suite, packages, architecture)
            versions = _versions(folder)
        return Root(folder, versions)


def _versions(folder: Path) -> dict[str, str]:
    """Of the packages in a folder; none where it is not whole."""
    try:
        found: dict[str, str] = json.loads((folder / VERSIONS).read_text("utf-8"))
    except OSError:
        return {}
    return found


def _replace(folder: Path, suite: str, packages: Sequence[str], architecture: str) -> None:
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left in (fresh, old):  # of one that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        archives = _download(fresh / "apt", suite, packages, architecture)
        versions = {}
        for archive in archives:
            run_program(["dpkg-deb", "--extract", str(archive), str(fresh)])
            said = run_program(["dpkg-deb", "--show", "--showformat", "${Package} ${Version}", str(archive)])
            name, version = said.split()
            versions[name] = version
        shutil.rmtree(fresh / "apt")
        (fresh / VERSIONS).write_text(json.dumps(versions, indent=1, sort_keys=True), "utf-8")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def _download(state: Path, suite: str, packages: Sequence[str], architecture: str) -> list[Path]:
    """The archives of the packages and of what they depend on."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ToolchainError(f"{suite}: expected Debian's apt-get and dpkg-deb, found none on this machine")
    if (machine := os.uname().machine) != "x86_64":
        raise ToolchainError(f"{suite}: expected an x86_64 machine, found {machine}")
    for name in ("lists/partial", "archives/partial", "empty"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(_sources(suite), "utf-8")
    (state / "apt.conf").write_text(_configuration(state, architecture), "utf-8")
    environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C"}
    run_program(["apt-get", "update"], environment)
    release = [f"--target-release={suite}"] if suite in _OVERLAYS else []
    run_program(["apt-get", "install", "--yes", "--download-only", *release, *packages], environment)
    return sorted((state / "archives").glob("*.deb"))


def _sources(suite: str) -> str:
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    return "".join(f"deb{signed} {mirror()} {one} main\n" for one in _OVERLAYS.get(suite, (suite,)))


def mirror() -> str:
    """The mirror of Debian's archive that this machine's own apt takes packages from.

    Raises:
        ToolchainError: it takes none from Debian.
    """
    found = run_program(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split()
    for uri in found:
        if uri.rstrip("/").endswith("/debian"):
            return uri
    raise ToolchainError(
        f"expected a mirror of Debian among apt's sources, found {', '.join(sorted(set(found))) or 'none'}"
    )


def _configuration(state: Path, architecture: str) -> str:
    """This machine's ways of acquiring (proxies, mirrors' quirks), and folders of our own: no hook runs, nobody's
    pins count."""
    acquire = [
        line
        for line in run_program(["apt-config", "dump"]).splitlines()
        if line.startswith("Acquire::") and not line.startswith("Acquire::IndexTargets")
    ]
    own = {
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": state / "empty",
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::Status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::Archives": state / "archives",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
    }
    return "\n".join([*acquire, *(f'{name} "{value}";' for name, value in own.items()), ""])


def run_program(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run one of Debian's programs, and return what it printed.

    Raises:
        ToolchainError: it failed; says its first error.
    """
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        lines = done.stderr.splitlines()
        why = next((line for line in lines if line.startswith("E: ")), lines[-1] if lines else "no word why")
        raise ToolchainError(f"{' '.join(command[:2])}: {printable(why, 600)}")
    return done.stdout
