"""`rfc push` and `rfc pull`, killed with SIGKILL at random moments: each goes on, and nobody has half a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rocmforge.registry.artifact import Descriptor, decode_artifact
from rocmforge.registry.reference import Reference, parse_reference
from rocmforge.tools.debian.registry import RunningRegistry

from .machines import Machine, ProofError, Said

_KILLED = -9
_MOST_RUNS = 20  # of one kill: those that are quicker than it count for nothing


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of it.

    Attributes:
        killed: how many were,
        whole: how many ran to their end between,
        moved: how many layers were sent or asked for in all,
        least: how many that is where none is killed.
    """

    killed: int
    whole: int
    moved: int
    least: int

    def __str__(self) -> str:
        return (
            f"killed {self.killed} times, {self.whole} ran to their end; {self.moved} layers moved, where "
            f"{self.whole} that none disturbs move {self.least}"
        )


def killed_pushes(
    machine: Machine, reader: Machine, registry: RunningRegistry, bundle: Path, count: int, chosen: Random
) -> Killed:
    """Kill `count` pushes of a bundle, into a new repository whenever one was not; after each, pull it elsewhere.

    Raises:
        ProofError: a pull found something between nothing and the whole, or a push began anew.
    """
    began = time.monotonic()
    name = _done(machine.rfc("push", bundle, f"{registry.host}/killed/push0:v1")).out.strip()
    seconds, killed, whole = time.monotonic() - began, 0, 1
    for _ in range(count * _MOST_RUNS):
        tag = f"{registry.host}/killed/push{whole}:v1"
        said = machine.rfc("push", bundle, tag, kill_after=chosen.uniform(0, seconds))
        if said.code not in (0, _KILLED):
            raise ProofError(f"push: expected it to go on, found {said.code}: {said.last}")
        found = _there(reader, tag, bundle)
        if said.code == 0 and not found:
            raise ProofError(f"{tag}: expected what was pushed, found nothing")
        killed += said.code == _KILLED
        if killed == count:
            break
        whole += found
    else:
        raise ProofError(f"expected {count} killed pushes, found {killed}")
    _done(machine.rfc("push", bundle, tag))
    artifact = decode_artifact(name, registry.blob(parse_reference(name).digest).read_bytes())
    time.sleep(0.2)  # the log
    layers, puts = len(artifact.layers) + 1, [path for way, path in registry.requests if way == "PUT"]
    sent = sum("/killed/push" in path and "/blobs/uploads/" in path for path in puts)
    result = Killed(killed, whole + 1, sent, layers * (whole + 1))
    if sent > result.least + killed:  # a kill costs the one layer that is under way
        raise ProofError(f"expected {result.least + killed} layers to be sent at most, found {sent}")
    return result


def _there(reader: Machine, tag: str, bundle: Path) -> bool:
    """Whether a repository has the bundle, which then is whole; else it has none."""
    goal = reader.home / "probe.rfb"
    said = reader.rfc("pull", tag, "-o", goal, "--arch", "all")
    if said.code == 0:
        compare(goal, bundle)
        shutil.rmtree(goal)
        shutil.rmtree(reader.home / ".cache", ignore_errors=True)
        return True
    if said.code != 1 or "manifest: the registry answered 404" not in said.last or goal.exists():
        raise ProofError(f"{tag}: expected the whole or nothing, found {said.code}: {said.last}")
    return False


def killed_pulls(
    machine: Machine,
    registry: RunningRegistry,
    name: Reference,
    trust: tuple[object, ...],
    bundle: Path,
    count: int,
    chosen: Random,
) -> Killed:
    """Kill `count` pulls into the machine's cache, which is emptied whenever one was not; the last one ends.

    Raises:
        ProofError: a bundle in the cache is not whole, or a pull began anew.
    """
    cache, command = machine.home / ".cache/rocmforge/registry", ("pull", name, "--arch", "all", *trust)
    shutil.rmtree(cache, ignore_errors=True)
    began = time.monotonic()
    _done(machine.rfc(*command))
    seconds, killed, whole = time.monotonic() - began, 0, 0
    shutil.rmtree(cache)
    layers = decode_artifact(str(name), registry.blob(name.digest).read_bytes()).layers
    before = _asked(registry, name, layers)
    for _ in range(count * _MOST_RUNS):
        said = machine.rfc(*command, kill_after=chosen.uniform(0, seconds))
        if said.code not in (0, _KILLED):
            raise ProofError(f"pull: expected it to go on, found {said.code}: {said.last}")
        killed += said.code == _KILLED
        found = list(cache.glob("bundles/*/*.rfb"))
        for path in found:
            compare(path, bundle)
        if found:
            whole += 1
            shutil.rmtree(cache)
        if killed == count:
            break
    else:
        raise ProofError(f"expected {count} killed pulls, found {killed}")
    _done(machine.rfc(*command))
    for path in cache.glob("bundles/*/*.rfb"):
        compare(path, bundle)
    time.sleep(0.2)  # the log
    asked = _asked(registry, name, layers) - before
    result = Killed(killed, whole + 1, asked, len(layers) * (whole + 1))
    if asked > result.least + killed:  # a kill costs the one layer that is under way
        raise ProofError(f"expected {result.least + killed} layers to be asked for at most, found {asked}")
    return result


def _asked(registry: RunningRegistry, name: Reference, layers: Sequence[Descriptor]) -> int:
    """How often one of the layers was asked for; the config, which says what they are, is read by each pull anew."""
    paths = {f"/v2/{name.repository}/blobs/{layer.digest}" for layer in layers}
    return sum(way == "GET" and path.partition("?")[0] in paths for way, path in registry.requests)


def _done(said: Said) -> Said:
    if said.code:
        raise ProofError(f"expected exit code 0, found {said.code}: {said.last}")
    return said


def compare(found: Path, bundle: Path) -> None:
    """Hold a bundle against the one that was pushed, to the byte."""
    files = [
        {path.relative_to(one).as_posix(): path for path in one.rglob("*") if path.is_file()} for one in (found, bundle)
    ]
    files[0].pop("pulled.json", None)
    if files[0].keys() != files[1].keys():
        raise ProofError(f"{found}: expected all files of the bundle, found {len(files[0])} of {len(files[1])}")
    for name, path in files[0].items():
        if path.read_bytes() != files[1][name].read_bytes():
            raise ProofError(f"{found}: {name}: expected the bytes that were pushed, found others")
