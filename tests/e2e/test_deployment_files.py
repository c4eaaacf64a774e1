"""What operators deploy with is valid and fits the server: image, compose.yaml, conf/kubernetes, workflow."""

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from genstatus_server.settings import load_settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
KUBERNETES = {
    resource["kind"]: resource
    for path in sorted((ROOT / "conf" / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for resource in yaml.safe_load_all(path.read_text())
}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("compose-spec", "compose.yaml"),
        ("github-workflows", ".github/workflows/ci.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/feature.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_deployment_file_fits_its_schema(schema: str, path: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(ROOT / path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_manifests_fit_their_schemas(version: str) -> None:
    assert sorted(KUBERNETES) == ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service"]
    for resource in KUBERNETES.values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_kubernetes_pod_fits_its_configuration(tmp_path: Path) -> None:
    pod = KUBERNETES["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    config = tmp_path / "genstatus.toml"
    config.write_text(KUBERNETES["ConfigMap"]["data"]["genstatus.toml"])
    settings = load_settings({}, {}, str(config))
    assert pod["spec"]["terminationGracePeriodSeconds"] > settings.shutdown_delay + settings.drain_timeout + 2
    assert settings.shutdown_delay > 3 * container["readinessProbe"]["periodSeconds"]
    assert pod["spec"]["enableServiceLinks"] is False
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = KUBERNETES[kind]["spec"]["selector"]
        assert (selector.get("matchLabels") or selector).items() <= pod["metadata"]["labels"].items()


def test_compose_server_and_worker_get_what_they_read() -> None:
    server, worker = (COMPOSE["services"][name]["environment"] for name in ("server", "worker"))
    settings = load_settings({}, server)
    assert settings.mongodb_uri
    assert settings.s3_bucket == worker["GENSTATUS_S3_BUCKET"]
    source = (ROOT / "examples" / "worker.py").read_text()
    assert set(re.findall(r'environ\["(\w+)"\]', source)) <= set(worker)
    assert f"/data/{settings.s3_bucket}" in COMPOSE["services"]["s3"]["command"][0]
    assert (
        f"{server['AWS_ACCESS_KEY_ID']},{server['AWS_SECRET_ACCESS_KEY']} " in COMPOSE["services"]["s3"]["command"][0]
    )


class Livez(BaseHTTPRequestHandler):
    """Answers like a server that runs."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Nothing: the test needs no log."""


def test_healthcheck_follows_the_port_in_the_environment() -> None:
    found = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    command = [sys.executable, *json.loads(found[1])[1:]]

    def check(port: int) -> int:
        environment = os.environ | {"GENSTATUS_PORT": str(port)}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    with HTTPServer(("127.0.0.1", 0), Livez) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert check(server.server_port) == 0
        server.shutdown()
    assert check(server.server_port) == 1


def test_requirements_lock_pins_every_dependency_with_hashes() -> None:
    text = (ROOT / "setup.py").read_text()
    for name in ("RUNTIME", "WORKER"):
        block = re.search(rf"^{name} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        assert block
        for requirement in map(Requirement, re.findall(r'^    "(.+?)",', block[1], re.MULTILINE)):
            assert requirement.specifier.contains(LOCKED[requirement.name])
    blocks = re.split(r"^(?=[a-z0-9-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(LOCKED)
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in LOCK


def test_precommit_and_tox_run_the_same_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (wanted,) = re.findall(r"^ +(ruff[^\s]+)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    assert {tuple(hook["additional_dependencies"]) for hook in hooks} == {(wanted,)}


def test_hosted_ci_runs_what_developers_run() -> None:
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
