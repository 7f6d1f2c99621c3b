"""`rfc push`, `pull` and `rebuild` that are killed, and a bundle that is pulled anew below its server: each goes on,
and nobody ever has half a bundle."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import verify_bundle
from rocmforge.tests.support.killed import Killed, forked
from rocmforge.tests.support.process import Server, digest_of, files_of, refused, serving
from rocmforge.tests.support.registries import RunningRegistry, running_registry
from rocmforge.tools.generate.fixtures import write_model

ASK = {"prompt": "the and of", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def answer(server: Server) -> str:
    response = server.post("/generate", ASK)
    assert response.status_code == 200, response.text
    return str(response.json()["tokens"])


def without_origin(bundle: Path) -> dict[str, bytes]:
    """Its files, but where it came from."""
    return {name: data for name, data in files_of(bundle).items() if name != "pulled.json"}


def test_F61_killed_pushes_and_pulls_go_on(registry: RunningRegistry, small_bundle: Path, tmp_path: Path) -> None:
    """Killed before one of their requests, or before they touch a file of their cache or their goal."""
    own, goal, team = tmp_path / "own", tmp_path / "goals/copy.rfb", f"{registry.host}/team"
    goal.parent.mkdir()
    options = ("--registry-cache", own / "cache")
    whole = Killed(tmp_path, own, "push", small_bundle, f"{team}/other:v1", *options)
    assert whole.run(0) == 0  # into another repository: what this one has, that one has not
    name, killed = f"{team}/killed:v1", 0
    push = Killed(tmp_path, own, "push", small_bundle, name, *options)
    while push.dies(whole.steps // 3):
        refused(forked(tmp_path, "pull", name, "-o", goal, *options), 1, "manifest: the registry answered 404")
        killed += 1
        assert killed < 12, "pushes begin anew"
    assert killed > 1
    assert whole.run(0) == 0  # of what is there
    assert Killed(tmp_path, own, "push", small_bundle, f"{team}/killed:v2", *options).dies(whole.steps)
    absent = forked(tmp_path, "pull", f"{team}/killed:v2", "-o", goal, *options)
    refused(absent, 1, "manifest: the registry answered 404")
    pull = Killed(tmp_path, goal.parent, "pull", name, "-o", goal, "--arch", "all", *options)
    assert pull.run(0) == 0
    steps = pull.steps
    shutil.rmtree(goal)
    chosen = random.Random(15)
    for step in (*(chosen.randrange(steps * i // 4, steps * (i + 1) // 4) for i in (1, 2, 3)), 0, steps):
        # What one that was killed has left may spare the next a step: the last is killed after one that was not.
        assert pull.dies(step) if step else pull.run(0) == 0, step
        if os.path.lexists(goal):
            assert without_origin(goal) == files_of(small_bundle)
            shutil.rmtree(goal)
    assert pull.run(0) == 0
    verify_bundle(goal).close()
    assert without_origin(goal) == files_of(small_bundle)
    assert [path.name for path in goal.parent.iterdir()] == [goal.name]


def test_F61_a_killed_rebuild_leaves_the_bundle_and_nothing_half(
    tmp_path: Path,
) -> None:
    """Of a bundle with the host's portable code alone, which is the quickest to compile."""
    model, bundle, goal = (
        write_model(tmp_path / "small.gguf", num_layers=1),
        tmp_path / "b.rfb",
        tmp_path / "goals/a.rfb",
    )
    digest_of(forked(tmp_path, "compile", model, "-o", bundle, "--cache-dir", tmp_path / "cache", portable=True))
    before = files_of(bundle)
    goal.parent.mkdir()
    rebuild = Killed(tmp_path, goal.parent, "rebuild", bundle, model, "-o", goal, portable=True)
    assert rebuild.dies(30)
    assert files_of(bundle) == before
    assert not os.path.lexists(goal)
    assert len(list(goal.parent.iterdir())) == 1  # what the next removes
    assert rebuild.run(0) == 0
    assert files_of(goal) == files_of(bundle) == before
    assert [path.name for path in goal.parent.iterdir()] == [goal.name]
    assert rebuild.steps > 35


def test_F79_a_bundle_is_pulled_anew_below_its_server(
    registry: RunningRegistry, small_bundle: Path, small_cache: Path, tmp_path: Path
) -> None:
    """Another one under the same name, by pulls that are killed and one that is not: the server goes on with the one
    that it has, and the next has the new one, whole."""
    other, goal, name = tmp_path / "other.rfb", tmp_path / "goals/copy.rfb", f"{registry.host}/team/served:v1"
    goal.parent.mkdir()
    model = write_model(tmp_path / "other.gguf", seed=1)
    digest_of(forked(tmp_path, "compile", model, "-o", other, "--cache-dir", small_cache))
    options = ("--registry-cache", tmp_path / "cache")
    assert forked(tmp_path, "push", small_bundle, name, *options).returncode == 0
    assert forked(tmp_path, "pull", name, "-o", goal, "--arch", "all", *options).returncode == 0
    with serving(goal) as server:
        first = answer(server)
        assert forked(tmp_path, "push", other, name, *options).returncode == 0
        pull = Killed(tmp_path, goal.parent, "pull", name, "-o", goal, "--arch", "all", *options)
        for step in (10, 40):
            assert pull.dies(step)
            assert without_origin(goal) == files_of(small_bundle)
            assert answer(server) == first
        assert pull.run(0) == 0
        assert without_origin(goal) == files_of(other)
        assert answer(server) == first
    with serving(goal) as server:
        assert answer(server) != first
