"""AMD's libraries from Debian's suites: what goes wrong on the way, with an apt of our own. Real ones: tests/amd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.tools.debian import amd_runtime
from rocmforge.tools.debian import root as debian_root
from rocmforge.tools.debian.root import Root, fetch_root

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on PATH")

# What it was asked goes to `asked`; `install` copies the archives that are in `pool` to where it was told to.
APT_GET = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/asked"
case "$1" in
    indextargets) cat "$here/uris" ;;
    update) cp "$APT_CONFIG" "$here/configuration"; cat "$here/fails" >&2; ! [ -s "$here/fails" ] ;;
    install) cp "$here"/pool/*.deb "$(sed -n 's/^Dir::Cache::Archives "\\(.*\\)";/\\1/p' "$APT_CONFIG")" ;;
esac
"""
APT_CONFIG = """#!/bin/sh
echo 'APT::Update::Post-Invoke:: "rm -rf /";'
echo 'Acquire::http::Proxy "http://proxy:3128";'
echo 'Acquire::IndexTargets::deb::DEP-11 "";'
"""


class Apt:
    """A stand-in for apt on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pool").mkdir(parents=True)
        for name, text in (("apt-get", APT_GET), ("apt-config", APT_CONFIG)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "uris").write_text("http://mirror/debian-security/\nhttp://mirror/debian/\n")
        self.fail("")

    def fail(self, words: str) -> None:
        (self.folder / "fails").write_text(words)

    def asked(self) -> str:
        return (self.folder / "asked").read_text()

    def offer(self, version: str) -> None:
        """A package whose only file says its version."""
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: hip\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@x>\nDescription: x\n"
        )
        (tree / "usr").mkdir()
        (tree / "usr/hip").write_text(version)
        subprocess.run(["dpkg-deb", "--build", tree, self.folder / "pool/hip.deb"], check=True, capture_output=True)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    found = Apt(tmp_path / "apt")
    monkeypatch.setenv("PATH", f"{found.folder}:{os.environ['PATH']}")
    return found


def refusal(folder: Path, update: bool = False) -> str:
    """What a fetch that fails says; it leaves nothing beside the folder's lock."""
    with pytest.raises(ToolchainError) as caught:
        fetch_root(folder, "sid", ["hip"], update)
    assert "\n" not in str(caught.value)
    assert {path.name for path in folder.parent.iterdir()} <= {folder.name, f".{folder.name}.lock"}
    return str(caught.value)


@needs_dpkg
def test_a_root_is_fetched_once_and_newest_where_asked(apt: Apt, tmp_path: Path) -> None:
    folder = tmp_path / "roots/sid"
    apt.offer("1.0")
    root = fetch_root(folder, "sid", ["hip"])
    assert root.versions == {"hip": "1.0"}
    assert (folder / "usr/hip").read_text() == "1.0"
    assert not (folder / "apt").exists()
    apt.offer("2.0")
    before = apt.asked()
    assert fetch_root(folder, "sid", ["hip"]) == root
    assert apt.asked() == before
    assert fetch_root(folder, "sid", ["hip"], update=True).versions == {"hip": "2.0"}
    assert (folder / "usr/hip").read_text() == "2.0"


@needs_dpkg
def test_apt_is_told_of_the_proxy_and_of_nothing_else_of_this_machine(apt: Apt, tmp_path: Path) -> None:
    apt.offer("1.0")
    fetch_root(tmp_path / "roots/experimental", "experimental", ["hip"])
    lines = (apt.folder / "configuration").read_text().splitlines()
    assert 'Acquire::http::Proxy "http://proxy:3128";' in lines
    assert not [line for line in lines if "Invoke" in line or "IndexTargets" in line]
    folders = [line.split('"')[1] for line in lines if line.startswith("Dir::")]
    assert {folder for folder in folders if not folder.startswith(str(tmp_path))} == {"/dev/null"}
    assert "--target-release=experimental hip" in apt.asked()


def test_sources_are_of_the_mirror_and_a_suite_that_lacks_most_brings_another(apt: Apt) -> None:
    sources = debian_root._sources("experimental").splitlines()
    assert [line.split()[-2] for line in sources] == ["sid", "experimental"]
    assert all(" http://mirror/debian/ " in line for line in sources)


@needs_dpkg
def test_F110_a_suite_that_is_not_to_be_had_leaves_what_was_there(apt: Apt, tmp_path: Path) -> None:
    folder = tmp_path / "roots/sid"
    apt.fail("W: slow\nE: Failed to fetch http://mirror/debian/dists/sid/InRelease\nE: Some index files failed\n")
    assert refusal(folder) == "apt-get update: E: Failed to fetch http://mirror/debian/dists/sid/InRelease"
    assert not folder.exists()
    apt.fail("")
    apt.offer("1.0")
    fetch_root(folder, "sid", ["hip"])
    apt.fail("E: Failed to fetch\n")
    assert "Failed to fetch" in refusal(folder, update=True)
    assert (folder / "usr/hip").read_text() == "1.0"


@needs_dpkg
def test_F110_what_a_killed_fetch_left_is_replaced(apt: Apt, tmp_path: Path) -> None:
    folder = tmp_path / "roots/sid"
    for left in (folder, folder.with_name(".sid.new"), folder.with_name(".sid.old")):
        (left / "usr").mkdir(parents=True)
        (left / "usr/half").touch()
    apt.offer("1.0")
    fetch_root(folder, "sid", ["hip"])
    assert not (folder / "usr/half").exists()
    assert {path.name for path in folder.parent.iterdir()} == {"sid", ".sid.lock"}


def test_F110_a_machine_without_apt_or_without_debian(
    apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (apt.folder / "uris").write_text("http://archive/ubuntu/\n")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/it")
    assert "expected a mirror of Debian among apt's sources, found http://archive/ubuntu/" in refusal(
        tmp_path / "r/sid"
    )
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "expected Debian's apt-get and dpkg-deb, found none" in refusal(tmp_path / "r/sid")


def test_F110_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rocmforge.tools.debian.amd_runtime", "--suite", "sid", "--", "rfc", "doctor"]
    environment = {**os.environ, "PATH": str(tmp_path), "ROCMFORGE_WORK": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "amd_runtime: sid: expected Debian's apt-get and dpkg-deb, found none on this machine\n"


def test_F110_libraries_for_an_older_machine_than_this(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"trixie: its C library is 2\.1, older than this machine's 2\.\d+"):
        amd_runtime.launch(Root(tmp_path / "trixie", {"libc6": "2.1-4"}), [], ["rfc"])


def test_versions_are_those_of_amds_libraries(tmp_path: Path) -> None:
    versions = {"libamdhip64-5": "5.7.1-6", "libc6": "2.41-12", "libhsa-runtime64-1": "6.1.2-3"}
    assert amd_runtime.describe(Root(tmp_path, versions)) == "libamdhip64-5 5.7.1-6, libhsa-runtime64-1 6.1.2-3"


@needs_dpkg
def test_a_root_that_lacks_a_package_is_fetched_again(apt: Apt, tmp_path: Path) -> None:
    apt.offer("1.0")
    assert fetch_root(tmp_path / "roots/sid", "sid", ["other"]).versions == {"hip": "1.0"}
    apt.offer("2.0")
    assert fetch_root(tmp_path / "roots/sid", "sid", ["hip"]).versions == {"hip": "1.0"}
    assert fetch_root(tmp_path / "roots/sid", "sid", ["hip", "more"]).versions == {"hip": "2.0"}
